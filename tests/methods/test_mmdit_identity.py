"""Mutual self-attention on SD3 and FLUX: what must not change, to the bit."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import tiny_mmdit
import torch

from masactrl.attention import Clock, Rows, Schedule
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from torch import Tensor

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


@pytest.mark.parametrize("steps", [4, 50])
def test_steps_of_flux_in_half_precision(steps: int) -> None:
    """Timesteps arrive rounded and divided by 1000; neighbours may be equal then."""

    scheduler = tiny_mmdit.flux().scheduler
    scheduler.set_timesteps(steps, mu=1.15)
    scheduler.set_begin_index(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        clock = Clock(1000.0)
        scheduler._step_index = None
        seen = []
        for t in scheduler.timesteps:
            tick = clock.tick(t.expand(2).to(dtype) / 1000, scheduler)
            seen.append(tick.step)
            assert tick.timestep == float(t)
            scheduler._step_index = tick.step + 1
        assert seen == list(range(steps))
