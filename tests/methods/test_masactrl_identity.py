"""An idle control and a detached one give, bit for bit, what the untouched pipeline gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.errors import ControlNotApplied
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
ACTIVE = Schedule(start_step=1, start_layer=10)
PAIR = Rows.one_source(targets=1)
HALF = torch.tensor([[1.0, 0.0]])
FORMS = {
    "replace": MasaCtrl(schedule=ACTIVE),
    "union": MasaCtrl(schedule=ACTIVE, form="union"),
    "half": MasaCtrl(schedule=ACTIVE, strength=0.5),
    "given": MasaCtrl(schedule=ACTIVE, masks=GivenMasks(images=(HALF, HALF))),
    "words": MasaCtrl(
        schedule=ACTIVE, masks=WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS))
    ),
}
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_models.sd()


@pytest.fixture(scope="module")
def plain(pipe: StableDiffusionPipeline) -> Tensor:
    return tiny_models.run(pipe, PROMPTS)


def state(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """Everything that a hook could leave on the modules, and the processors."""
    found: dict[str, Any] = dict(pipe.unet.attn_processors)
    for name, module in pipe.unet.named_modules():
        own = vars(module)
        found[name] = {key: own[key] for key in own if key in ("forward", "_diffusers_hook")}
    return found


@pytest.mark.parametrize(
    ("control", "rows"),
    [
        (MasaCtrl(schedule=ACTIVE), Rows.plain(images=2)),
        (MasaCtrl(schedule=Schedule.never()), PAIR),
        (MasaCtrl(schedule=ACTIVE, strength=0.0), PAIR),
        (MasaCtrl(schedule=ACTIVE, form="union"), Rows.plain(images=2)),
        (FORMS["given"], Rows.plain(images=2)),
        (FORMS["words"], Rows.plain(images=2)),
    ],
)
def test_an_idle_control_changes_no_bit(
    pipe: StableDiffusionPipeline, plain: Tensor, control: MasaCtrl, rows: Rows
) -> None:
    with control.attach(pipe, rows) as attached:
        assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)
    assert attached.touched == frozenset()
    assert attached.report.complete


@pytest.mark.parametrize("form", FORMS)
def test_detached_is_untouched(pipe: StableDiffusionPipeline, plain: Tensor, form: str) -> None:
    before = state(pipe)
    with FORMS[form].attach(pipe, PAIR) as attached:
        assert state(pipe) != before
        edited = tiny_models.run(pipe, PROMPTS)
    assert state(pipe) == before
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)
    assert not torch.equal(edited, plain)
    assert attached.touched == {(step, layer) for step in (1, 2) for layer in range(10, 16)}
    assert attached.report.steps == (1, 2)
    assert attached.report.layers == tuple(range(10, 16))


@pytest.mark.parametrize("form", FORMS)
def test_the_source_is_untouched_and_the_target_is_not(
    pipe: StableDiffusionPipeline, plain: Tensor, form: str
) -> None:
    with FORMS[form].attach(pipe, PAIR):
        edited = tiny_models.run(pipe, PROMPTS)
    assert torch.allclose(edited[0], plain[0], atol=1e-4)
    assert (edited[1] - plain[1]).abs().max() > 0.3


def test_the_source_keeps_every_bit_in_the_paper_s_form(
    pipe: StableDiffusionPipeline, plain: Tensor
) -> None:
    with FORMS["replace"].attach(pipe, PAIR):
        assert torch.equal(tiny_models.run(pipe, PROMPTS)[0], plain[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_exception_leaves_the_pipeline_untouched(
    pipe: StableDiffusionPipeline, plain: Tensor, form: str, stop: int
) -> None:
    class HaltError(Exception):
        pass

    def callback(_pipe: object, step: int, _t: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == stop:
            raise HaltError
        return kwargs

    before = state(pipe)
    with pytest.raises(HaltError), FORMS[form].attach(pipe, PAIR):
        tiny_models.run(pipe, PROMPTS, callback_on_step_end=callback)
    assert state(pipe) == before
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


def test_an_exception_inside_the_network_leaves_it_untouched(
    pipe: StableDiffusionPipeline, plain: Tensor
) -> None:
    before = state(pipe)
    broken = (
        pipe.unet.up_blocks[3]
        .attentions[2]
        .register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    )
    with pytest.raises(RuntimeError, match="broken"), FORMS["replace"].attach(pipe, PAIR):
        tiny_models.run(pipe, PROMPTS)
    broken.remove()
    assert state(pipe) == before
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


def test_runs_in_one_block_do_not_disturb_each_other(pipe: StableDiffusionPipeline) -> None:
    with FORMS["replace"].attach(pipe, PAIR):
        first = tiny_models.run(pipe, PROMPTS)
    with FORMS["replace"].attach(pipe, PAIR) as attached:
        assert torch.equal(tiny_models.run(pipe, PROMPTS), first)
        longer = tiny_models.run(pipe, PROMPTS, steps=5)
        pipe._interrupt = False

        def interrupt(p: Any, step: int, _t: object, kwargs: dict[str, Any]) -> dict[str, Any]:
            p._interrupt = step == 1
            return kwargs

        tiny_models.run(pipe, PROMPTS, steps=5, callback_on_step_end=interrupt)
        assert torch.equal(tiny_models.run(pipe, PROMPTS), first)
        assert torch.equal(tiny_models.run(pipe, PROMPTS, steps=5), longer)
    assert [len(run.timesteps) for run in attached.runs] == [3, 5, 5, 3, 5]
    assert [run.steps for run in attached.runs] == [
        (1, 2),
        (1, 2, 3, 4),
        (1,),
        (1, 2),
        (1, 2, 3, 4),
    ]
    assert [run.complete for run in attached.runs] == [True, True, False, True, True]


def test_strength_one_and_zero_are_the_ends(pipe: StableDiffusionPipeline, plain: Tensor) -> None:
    def edited(strength: float) -> Tensor:
        control = MasaCtrl(schedule=ACTIVE, strength=strength)
        with control.attach(pipe, PAIR):
            return tiny_models.run(pipe, PROMPTS)

    full = edited(1.0)
    assert torch.allclose(edited(0.999999), full, atol=1e-3)
    assert torch.allclose(edited(0.000001), plain, atol=1e-3)
    distance = [(edited(s) - plain).abs().mean().item() for s in (0.25, 0.5, 1.0)]
    assert distance == sorted(distance)


def test_permuting_targets_permutes_the_pictures(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a cat sitting", "a cat running", "a dog jumping", "a red bird"]
    rows = Rows.one_source(targets=3)
    with FORMS["union"].attach(pipe, rows):
        one = tiny_models.run(pipe, prompts)
        other = tiny_models.run(pipe, [prompts[i] for i in (0, 3, 1, 2)])
    assert torch.allclose(other[[0, 2, 3, 1]], one, atol=1e-4)


def test_a_control_that_never_ran_says_so(pipe: StableDiffusionPipeline) -> None:
    with (
        pytest.raises(ControlNotApplied, match="denoiser was never called"),
        FORMS["replace"].attach(pipe, PAIR),
    ):
        pass
    with (
        pytest.warns(UserWarning, match="denoiser was never called"),
        MasaCtrl(schedule=ACTIVE, on_untouched="warn").attach(pipe, PAIR),
    ):
        pass
