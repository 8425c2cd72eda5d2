"""The rivals off, taken off, and refused: what they must leave alone, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch

from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError, ControlNotApplied, MasaCtrlError, MaskError
from masactrl.methods import (
    METHODS,
    FixedSeed,
    LocalBlend,
    MasaCtrl,
    Parts,
    PlugAndPlay,
    PromptToPrompt,
    SDEdit,
    StyleAligned,
    Unified,
    method_named,
    methods_of,
)
from masactrl.methods.plug_and_play import FEATURE_LAYER
from masactrl.settings.shared import FROM_SOURCE, MethodName

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PROMPTS = ["a cat sitting on snow", "a dog sitting on snow"]
ROWS = Rows.one_source(targets=1)
BLEND = LocalBlend(source=("cat",), target=("dog",), tokens=None)
ON = {
    "prompt-to-prompt": PromptToPrompt(blend=BLEND),
    "plug-and-play": PlugAndPlay(),
    "style-aligned": StyleAligned(),
    "unified": Unified(rigid=0.4),
}
OFF = {
    "fixed-seed": FixedSeed(),
    "sdedit": SDEdit(),
    "prompt-to-prompt": PromptToPrompt(cross=0, self_attention=0),
    "plug-and-play": PlugAndPlay(features=0, attention=0),
    "style-aligned": StyleAligned(schedule=Schedule.never()),
}


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_models.sd()


@pytest.fixture(scope="module")
def plain(pipe: DiffusionPipeline) -> torch.Tensor:
    return tiny_models.run(pipe, PROMPTS)


def state(pipe: Any) -> list[Any]:
    """All that a method could leave behind."""
    left: list[Any] = [pipe.scheduler.__dict__.get("step"), pipe.scheduler.step.__func__]
    for name, module in pipe.unet.named_modules():
        own = vars(module)
        left.append((name, id(own.get("processor")), "forward" in own, "_diffusers_hook" in own))
    return left


def test_every_method_is_in_the_table_and_known_to_a_request() -> None:
    assert set(METHODS) == set(MethodName.__args__)
    for name in methods_of("diffusion"):
        options = {"schedule": Schedule()} if name == "masactrl" else {}
        method = method_named(name, **options)
        assert method.name == name
        assert (method.start is None) == (name not in FROM_SOURCE)


@pytest.mark.parametrize("name", OFF)
def test_off_is_the_untouched_pipeline(
    pipe: DiffusionPipeline, plain: torch.Tensor, name: str
) -> None:
    with OFF[name].attach(pipe, ROWS, prompts=PROMPTS):
        assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize("name", ON)
def test_taken_off_nothing_is_left_also_after_an_exception(
    pipe: DiffusionPipeline, plain: torch.Tensor, name: str
) -> None:
    before = state(pipe)
    with ON[name].attach(pipe, ROWS, prompts=PROMPTS):
        assert not torch.equal(tiny_models.run(pipe, PROMPTS)[1], plain[1])
    assert state(pipe) == before

    def stop(*_: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ON[name].attach(pipe, ROWS, prompts=PROMPTS):
        tiny_models.run(pipe, PROMPTS, callback_on_step_end=stop)
    assert state(pipe) == before
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize("name", ON)
def test_images_that_read_nobody_keep_every_bit(pipe: DiffusionPipeline, name: str) -> None:
    prompts = [*PROMPTS, PROMPTS[1]]
    rows = Rows(images=3, reads=((0,), (0,), (2,)))
    alone = tiny_models.run(pipe, prompts)
    with ON[name].attach(pipe, rows, prompts=prompts):
        made = tiny_models.run(pipe, prompts)
    assert torch.equal(made[0], alone[0])
    assert torch.equal(made[2], alone[2])
    assert not torch.equal(made[1], alone[1])


@pytest.mark.parametrize("name", ON)
def test_a_run_that_never_came_is_an_error(pipe: DiffusionPipeline, name: str) -> None:
    with (
        pytest.raises(ControlNotApplied, match="never called"),
        ON[name].attach(pipe, ROWS, prompts=PROMPTS),
    ):
        pass


def test_plug_and_play_injects_at_the_scheduled_steps_and_layers_only(
    pipe: DiffusionPipeline,
) -> None:
    with PlugAndPlay(features=0.8, attention=0.5).attach(pipe, ROWS) as handle:
        tiny_models.run(pipe, PROMPTS, steps=7)
    assert isinstance(handle, Parts)
    features, attention = (handle.by_name[part].touched for part in ("features", "attention"))
    assert features == {(step, FEATURE_LAYER) for step in range(5)}  # int(0.8 * 7)
    assert attention == {(step, layer) for step in range(3) for layer in range(8, 16)}


def test_prompt_to_prompt_counts_steps_as_published(pipe: DiffusionPipeline) -> None:
    method = PromptToPrompt(cross=0.5, self_attention=0.5)
    with method.attach(pipe, ROWS, prompts=PROMPTS) as handle:
        tiny_models.run(pipe, PROMPTS, steps=7)
    assert {step for step, _ in handle.by_name["cross"].touched} == set(range(4))  # int(0.5 * 8)
    assert {step for step, _ in handle.by_name["self"].touched} == set(range(3))  # int(0.5 * 7)
    assert {layer for _, layer in handle.by_name["cross"].touched} == set(range(16))


def test_a_second_run_is_as_the_first(pipe: DiffusionPipeline) -> None:
    """The local blend sums maps over a run; the next run starts anew."""
    with ON["prompt-to-prompt"].attach(pipe, ROWS, prompts=PROMPTS):
        first = tiny_models.run(pipe, PROMPTS)
        assert torch.equal(tiny_models.run(pipe, PROMPTS), first)


REFUSED = [
    (PromptToPrompt(), {}, "pass prompts"),
    (PromptToPrompt(), {"prompts": PROMPTS[:1]}, "1 prompts for 2 images"),
    (PromptToPrompt(edit="replace"), {"prompts": ["a cat", "a big cat"]}, "equally many words"),
    (PromptToPrompt(reweight=(("horse", 2.0),)), {"prompts": PROMPTS}, "'horse' is in none"),
    (
        PromptToPrompt(blend=LocalBlend(source=("horse",), target=("dog",))),
        {"prompts": PROMPTS},
        "'horse' of the local blend",
    ),
    (PlugAndPlay(block="up_blocks.9.resnets.1"), {}, "no residual block"),
    (PlugAndPlay(layers=(99,)), {}, "0 to 15"),
]


@pytest.mark.parametrize(("method", "options", "sentence"), REFUSED)
def test_what_cannot_be_is_refused_at_the_door(
    pipe: DiffusionPipeline, method: Any, options: dict[str, Any], sentence: str
) -> None:
    before = state(pipe)
    with pytest.raises(MasaCtrlError, match=sentence), method.attach(pipe, ROWS, **options):
        pytest.fail("attached")
    assert state(pipe) == before


@pytest.mark.parametrize("name", ON)
@pytest.mark.parametrize(
    "rows", [Rows.groups([(2, 1)]), Rows.from_cache(targets=1)], ids=["two sources", "cached"]
)
def test_rows_with_other_than_one_source(pipe: DiffusionPipeline, name: str, rows: Rows) -> None:
    with (
        pytest.raises(ConfigError, match="source"),
        ON[name].attach(pipe, rows, prompts=["a"] * rows.images),
    ):
        pytest.fail("attached")


def test_a_local_blend_without_maps_says_so(pipe: DiffusionPipeline) -> None:
    blend = LocalBlend(source=("cat",), target=("dog",), tokens=49)
    with (
        pytest.raises(MaskError, match="49 tokens"),
        PromptToPrompt(blend=blend).attach(pipe, ROWS, prompts=PROMPTS),
    ):
        tiny_models.run(pipe, PROMPTS)


def test_self_attention_that_is_nowhere_small_enough_says_so(pipe: DiffusionPipeline) -> None:
    method = PromptToPrompt(self_attention=0.9, self_tokens=0 + 1)
    with (
        pytest.raises(ControlNotApplied, match="at most 1 tokens"),
        method.attach(pipe, ROWS, prompts=PROMPTS),
    ):
        tiny_models.run(pipe, PROMPTS, size=(16, 16))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SDEdit(strength=0), "above 0 to 1"),
        (lambda: PlugAndPlay(features=1.5), "features=1.5"),
        (lambda: PlugAndPlay(source="both"), "'own' and 'conditional'"),
        (lambda: PromptToPrompt(edit="swap"), "edit='swap'"),
        (lambda: PromptToPrompt(edit="reweight"), "needs reweight"),
        (lambda: PromptToPrompt(cross_words=(("a", 0.5, 0.2),)), "window 0.5 to 0.2"),
        (lambda: LocalBlend(source=(), target=("a",)), "source of a local blend is empty"),
        (lambda: Unified(rigid=1.0), "rigid=1.0"),
        (lambda: method_named("magic"), "no method 'magic'"),
        (lambda: method_named("sdedit", power=1), "no option 'power'; accepted are strength"),
        (lambda: method_named("fixed-seed", power=1), "it has none"),
    ],
)
def test_values_out_of_range(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_masactrl_takes_prompts_and_ignores_them(pipe: DiffusionPipeline) -> None:
    method = MasaCtrl(schedule=Schedule(start_layer=10))
    with method.attach(pipe, ROWS):
        without = tiny_models.run(pipe, PROMPTS)
    with method.attach(pipe, ROWS, prompts=PROMPTS):
        assert torch.equal(tiny_models.run(pipe, PROMPTS), without)
