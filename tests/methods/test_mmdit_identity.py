"""Mutual self-attention on SD3 and FLUX: what must not change, to the bit."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import tiny_mmdit
import tiny_models
import torch

from masactrl.attention import Rows, Schedule, WordMasks
from masactrl.errors import ConfigError, ControlNotApplied, UnsupportedPipeline
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from torch import Tensor

# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")
PROMPTS = ["a cat sitting", "a cat running", "a dog jumping", "a red bird on snow"]
PAIR = Rows.one_source(targets=1)
SIZE = (8, 12)
SLG = {
    "skip_guidance_layers": [3],
    "skip_layer_guidance_start": 0.0,
    "skip_layer_guidance_stop": 1.0,
}
ACTIVE = Schedule(start_step=1, start_layer=1)
FORMS = {
    "replace": MasaCtrl(schedule=ACTIVE),
    "union": MasaCtrl(schedule=ACTIVE, form="union"),
    "strength": MasaCtrl(schedule=ACTIVE, strength=0.6),
}
KINDS = ("sd3", "sd3.5", "flux", "true cfg", "skipped layer")


@functools.cache
def pipeline(kind: str) -> Any:
    if kind in ("flux", "true cfg"):
        return tiny_mmdit.flux(guidance=kind == "flux")
    return tiny_mmdit.sd3(dual=kind == "sd3.5")


def run(kind: str, prompts: list[str], **options: Any) -> Tensor:
    if kind == "true cfg":
        options |= {"true_cfg_scale": 3.0, "negative_prompt": ["a"] * len(prompts)}
    if kind == "skipped layer":
        options |= SLG
    return tiny_mmdit.run(pipeline(kind), prompts, size=SIZE, **options)


@functools.cache
def plain(kind: str, images: int = 2) -> Tensor:
    return run(kind, PROMPTS[:images])


def state(pipe: Any) -> list[Any]:
    return [
        (name, type(getattr(module, "processor", None)), sorted(vars(module)))
        for name, module in pipe.transformer.named_modules()
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_source_and_detached_keep_every_bit(kind: str, form: str) -> None:
    original, pipe = plain(kind), pipeline(kind)
    before = state(pipe)
    with FORMS[form].attach(pipe, PAIR) as attached:
        edited = run(kind, PROMPTS[:2])
    assert state(pipe) == before
    assert torch.equal(run(kind, PROMPTS[:2]), original)
    assert torch.equal(edited[0], original[0])
    assert (edited[1] - original[1]).abs().max() > 1e-3
    layers = range(1, 6 if kind in ("flux", "true cfg") else 4)
    assert attached.touched == {(step, layer) for step in (1, 2) for layer in layers}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "control",
    [
        MasaCtrl(schedule=Schedule.never()),
        MasaCtrl(schedule=ACTIVE, strength=0.0),
        MasaCtrl(schedule=ACTIVE, on_untouched="warn"),
    ],
)
def test_an_idle_control_changes_no_bit(kind: str, control: MasaCtrl) -> None:
    rows = Rows.plain(images=2) if control.on_untouched == "warn" else PAIR
    with control.attach(pipeline(kind), rows) as attached:
        assert torch.equal(run(kind, PROMPTS[:2]), plain(kind))
    assert attached.touched == frozenset()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_joint_is_cached(kind: str, form: str) -> None:
    control, pipe = FORMS[form], pipeline(kind)
    with control.attach(pipe, Rows.one_source(targets=2)) as attached:
        together = run(kind, PROMPTS[:3])
    with control.record(pipe) as source:
        recorded = run(kind, PROMPTS[:1])
    with control.attach(pipe, Rows.from_cache(targets=2), source=source) as later:
        targets = run(kind, PROMPTS[1:3])
    assert torch.allclose(recorded, together[:1], atol=1e-5)
    assert torch.allclose(targets, together[1:], atol=1e-5)
    assert later.touched == attached.touched


@pytest.mark.parametrize("kind", ["sd3.5", "flux", "true cfg"])
def test_joint_is_cached_with_words(kind: str) -> None:
    prompts, words, pipe = PROMPTS[:3], ("cat", "cat", "dog"), pipeline(kind)
    joint = MasaCtrl(
        schedule=ACTIVE, masks=WordMasks(words=words, prompts=tuple(prompts), threshold=0.4)
    )
    apart = MasaCtrl(
        schedule=ACTIVE,
        masks=WordMasks(
            words=words[1:],
            prompts=tuple(prompts[1:]),
            source_words=words[:1],
            source_prompts=tuple(prompts[:1]),
            threshold=0.4,
        ),
    )
    with joint.attach(pipe, Rows.one_source(targets=2)):
        together = run(kind, prompts)
    with apart.record(pipe) as source:
        run(kind, prompts[:1])
    with apart.attach(pipe, Rows.from_cache(targets=2), source=source):
        assert torch.allclose(run(kind, prompts[1:]), together[1:], atol=1e-5)


@pytest.mark.parametrize("policy", ["none", "damped", "matched"])
@pytest.mark.parametrize("kind", ["flux", "true cfg"])
def test_joint_is_cached_at_other_positions(kind: str, policy: Any) -> None:
    control, pipe = MasaCtrl(schedule=ACTIVE, positions=policy), pipeline(kind)
    with control.attach(pipe, Rows.one_source(targets=2)):
        together = run(kind, PROMPTS[:3])
    with control.record(pipe) as source:
        run(kind, PROMPTS[:1])
    with control.attach(pipe, Rows.from_cache(targets=2), source=source):
        assert torch.allclose(run(kind, PROMPTS[1:3]), together[1:], atol=1e-5)


def test_an_exception_leaves_the_pipeline_untouched() -> None:
    class HaltError(Exception):
        pass

    def callback(_pipe: object, _step: int, _t: object, _kwargs: dict[str, Any]) -> dict[str, Any]:
        raise HaltError

    original, pipe = plain("flux"), pipeline("flux")
    before = state(pipe)
    with pytest.raises(HaltError), FORMS["replace"].attach(pipe, PAIR):
        run("flux", PROMPTS[:2], callback_on_step_end=callback)
    assert state(pipe) == before
    assert torch.equal(run("flux", PROMPTS[:2]), original)


@pytest.mark.parametrize(
    ("kind", "control", "sentence"),
    [
        ("sd3", {"positions": "none"}, "positions='none'.*learned positions.*accepted is 'same'"),
        ("flux", {"schedule": Schedule(layers=(60,))}, "layer=60.*layers 0 to 5"),
        ("flux", {"schedule": Schedule(places=("mid",))}, "'mid'.*has the places joint, single"),
        (
            "flux",
            {
                "schedule": Schedule(),
                "masks": WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS[:2])),
            },
            "Step 0 is controlled.*begin at step 1",
        ),
        (
            "flux",
            {"masks": WordMasks(words=("cat", "dog"), prompts=tuple(PROMPTS[:2]))},
            "'dog' is not in the prompt.*0 'a', 1 'cat', 2 'running'",
        ),
        ("sd3", {"masks": WordMasks(words=((400,), (1,)))}, "Token 400.*tokens 0 to 86"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    kind: str, control: dict[str, Any], sentence: str
) -> None:
    original, pipe = plain(kind), pipeline(kind)
    chosen = MasaCtrl(**{"schedule": ACTIVE} | control)
    with pytest.raises(ConfigError, match=sentence) as caught, chosen.attach(pipe, PAIR):
        run(kind, PROMPTS[:2])
    assert str(caught.value).endswith(".")
    assert torch.equal(run(kind, PROMPTS[:2]), original)


def test_positions_are_for_rotary_embeddings() -> None:
    control = MasaCtrl(schedule=Schedule(start_layer=10), positions="damped")
    with (
        pytest.raises(ConfigError, match="no positions in its attention; accepted is 'same'"),
        control.attach(tiny_models.sd(), PAIR),
    ):
        pass


def test_a_control_that_touched_nothing() -> None:
    def stop(pipe: Any, _step: int, _t: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return kwargs

    control = MasaCtrl(schedule=Schedule(start_step=2))
    with (
        pytest.raises(ControlNotApplied, match=r"ended at step 0 of 3 before the first.*\(2\)"),
        control.attach(pipeline("flux"), PAIR),
    ):
        run("flux", PROMPTS[:2], callback_on_step_end=stop)


def test_projections_that_cannot_be_fed() -> None:
    for pipe in (tiny_mmdit.flux(), tiny_mmdit.sd3()):
        pipe.transformer.fuse_qkv_projections()
        with (
            pytest.raises(UnsupportedPipeline, match=r"fused.*transformer.unfuse_qkv_projections"),
            FORMS["replace"].attach(pipe, PAIR),
        ):
            pass
        pipe.transformer.unfuse_qkv_projections()
        with FORMS["replace"].attach(pipe, PAIR):
            tiny_mmdit.run(pipe, PROMPTS[:2])
