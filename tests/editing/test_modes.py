"""Joint and cached edits, and what both have to keep: source, background, the plain picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from editing_parts import (
    HEIGHT,
    MASKS,
    STEPS,
    TARGETS,
    WORDS,
    half_mask,
    loaded,
    outcome,
    random_picture,
    relative,
)

from masactrl.errors import ScheduleError
from masactrl.models.denoiser import Denoiser
from masactrl.runs.invert import EditMasks, EditRequest, InversionRequest, invert, plan
from masactrl.runs.recording import FileCache, RecordingKey, record_source
from masactrl.runs.session import EditSession

if TYPE_CHECKING:
    from editing_parts import Inverted

    from masactrl.models import LoadedModel
    from masactrl.runs.edit_request import Keep


# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


@pytest.mark.parametrize(
    ("inversion", "change"),
    [
        ({}, {}),
        ({}, {"guidance_scale": 1.0}),
        ({}, {"form": "union", "strength": 0.6, "negative_prompt": "a bird"}),
        ({}, {"masks": MASKS, "keep_background": True}),
        ({"source_prompt": "a cat"}, {"masks": WORDS, "keep_background": True}),
        ({"source_prompt": "a cat", "method": "ddim", "guidance_scale": 2.0}, {}),
        (
            {"source_prompt": "a cat", "method": "ddim", "guidance_scale": 2.0},
            {"guidance_scale": 1.0},
        ),
        ({"method": "ddim"}, {"masks": MASKS, "keep_background": True}),
        ({}, {"fresh_noise": 0.5, "seed": 3}),
        ({"method": "ddim", "source_prompt": "a cat"}, {"fresh_noise": 1.0}),
        ({"method": "edit-friendly"}, {}),
        ({"method": "edit-friendly", "noise_shift": 200, "replay": True}, {}),
        ({"method": "virtual", "source_prompt": "a cat"}, {}),
        ({"method": "null-text", "source_prompt": "a cat", "iterations": 1}, {}),
        ({"method": "negative-prompt", "source_prompt": "a cat"}, {}),
    ],
    ids=lambda value: ",".join(value) or "default",
)
def test_joint_is_cached(
    inverted: Inverted, inversion: dict[str, Any], change: dict[str, Any]
) -> None:
    session = inverted(**inversion)
    found = [
        outcome(session, EditRequest(target_prompts=TARGETS, mode=mode, half=False, **change))
        for mode in ("joint", "cached")
    ]
    joint, cached = found
    assert joint.uncontrolled is not None
    assert cached.uncontrolled is not None
    assert relative(cached.controlled, joint.controlled) < 1e-4
    assert relative(cached.uncontrolled, joint.uncontrolled) < 1e-4
    assert relative(cached.source, joint.source) < 1e-4
    assert relative(joint.controlled, joint.uncontrolled) > 1e-3
    request = EditRequest(target_prompts=TARGETS, **change)
    for run, mode in zip(found, ("joint", "cached"), strict=True):
        assert run.passes == session.plan(replace(request, mode=mode)).edit


def test_sdxl(monkeypatch: pytest.MonkeyPatch) -> None:
    session = invert(loaded(tiny_models.sdxl(), layer=44), random_picture())
    joint, cached = (
        outcome(session, EditRequest(target_prompts=TARGETS[:1], mode=mode, half=False))
        for mode in ("joint", "cached")
    )
    assert relative(cached.controlled, joint.controlled) < 1e-4
    assert relative(joint.controlled, joint.uncontrolled) > 1e-3


def test_the_uncontrolled_picture_is_the_pipeline_s(session: EditSession) -> None:
    made = outcome(session, EditRequest(target_prompts=TARGETS[:1]))
    plain = tiny_models.run(
        session.model.pipeline,
        list(TARGETS[:1]),
        size=(HEIGHT // 8, 64 // 8),
        steps=STEPS,
        latents=session.trajectory.start.clone(),
    )
    assert made.uncontrolled is not None
    assert relative(made.uncontrolled, plain) < 1e-4


@pytest.mark.parametrize("method", ["direct", "edit-friendly", "virtual"])
@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_the_source_comes_back_as_the_vae_gives_it(
    inverted: Inverted, method: str, mode: str
) -> None:
    session = inverted(method=method)
    made = outcome(session, EditRequest(target_prompts=TARGETS[:1], mode=mode, compare=False))
    assert relative(made.source, session.trajectory.latents[-1]) < 1e-4
    assert made.uncontrolled is None


def test_the_background_stays_exactly(session: EditSession) -> None:
    masks = EditMasks(source=half_mask("left"))
    request = EditRequest(target_prompts=TARGETS[:1], masks=masks, keep_background=True)
    for mode in ("joint", "cached"):
        made = outcome(session, replace(request, mode=mode)).controlled  # type: ignore[arg-type]
        source = session.trajectory.latents[-1]
        assert torch.equal(made[..., 3:], source[..., 3:])
        assert not torch.allclose(made[..., :2], source[..., :2])


def test_recordings_serve_every_edit_that_they_cover(session: EditSession) -> None:
    session.forget()
    first = EditRequest(target_prompts=TARGETS[:1], start_step=0, start_layer=8)
    assert session.edit(first).passes["source"] > 0
    for change in ({}, {"start_step": 2}, {"start_layer": 12}, {"guidance_scale": 1.0}):
        request = replace(first, **change)  # type: ignore[arg-type]
        assert session.edit(request).passes["source"] == 0
    assert session.edit(replace(first, start_layer=7)).passes["source"] > 0


@pytest.mark.parametrize("keep", ["device", "memory", "disk"])
def test_wherever_features_are_kept_the_picture_is_the_same(
    session: EditSession, keep: str
) -> None:
    request = EditRequest(target_prompts=TARGETS[:1], compare=False)
    wanted = outcome(session, replace(request, half=False)).controlled
    for half in (False, True):
        found = outcome(session, replace(request, keep=keep, half=half)).controlled  # type: ignore[arg-type]
        assert relative(found, wanted) < (1e-2 if half else 1e-6)


def test_files_of_a_recording_go_with_it() -> None:
    cache = FileCache(dtype=torch.float16)
    cache.put(0, 999.0, 10, torch.randn(1, 12, 8), images=1)
    folder = cache._folder
    assert len(list(folder.iterdir())) == 1
    assert cache.get(0, 999.0, 10).shape == (1, 1, 12, 8)
    del cache
    assert not folder.exists()


# Guidance of the source makes two branches of its prompt, which one pass records as well.
@pytest.mark.parametrize(
    "asked",
    [
        {"method": "one-pass"},
        {"method": "one-pass", "source_prompt": "a cat", "guidance_scale": 2.0},
        {"method": "fixed-point", "replay": True, "iterations": 30},
    ],
)
@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_features_kept_while_inverting_are_those_of_a_pass_of_their_own(
    model: LoadedModel, asked: dict[str, Any], keep: Keep
) -> None:
    request = EditRequest(
        target_prompts=TARGETS, start_step=0, start_layer=4, keep=keep, half=False, compare=False
    )
    inversion = InversionRequest(**asked)
    ahead = invert(model, random_picture(), inversion, edit=request)
    apart = invert(model, random_picture(), inversion)
    assert torch.equal(ahead.trajectory.latents, apart.trajectory.latents)
    planned = plan(model, random_picture(), inversion, request, ahead=True)
    assert planned.source == ahead.plan(request).source == 0 < apart.plan(request).source
    once, twice = ahead.edit(request), apart.edit(request)
    assert once.passes == {**twice.passes, "source": 0}
    assert once.passes["edit"] == planned.edit
    assert once.cache_bytes == twice.cache_bytes == planned.cache_bytes
    for name, latents in twice.latents.items():
        assert relative(once.latents[name], latents) < (1e-2 if "replay" in asked else 1e-6), name
    with pytest.raises(ScheduleError, match="steps"):
        invert(model, random_picture(), inversion, edit=replace(request, start_step=STEPS))


@pytest.mark.parametrize(
    ("inversion", "request_"),
    [
        (InversionRequest(), {"mode": "cached"}),  # its levels are asked about one level off
        (InversionRequest(method="one-pass", replay=False), {}),  # the source goes its own way
        # One branch, and two are read.
        (InversionRequest(method="one-pass", source_prompt="a cat"), {}),
        (InversionRequest(method="one-pass"), {"mode": "joint"}),
        (
            InversionRequest(method="one-pass", source_prompt="a cat", guidance_scale=2.0),
            {"masks": WORDS},
        ),
    ],
)
def test_what_cannot_be_recorded_while_inverting_is_recorded_apart(
    model: LoadedModel, inversion: InversionRequest, request_: dict[str, Any]
) -> None:
    request = EditRequest(target_prompts=TARGETS, compare=False, **request_)
    ahead = invert(model, random_picture(), inversion, edit=request)
    cost = ahead.plan(request)
    result = ahead.edit(request)
    assert result.passes["source"] == cost.source
    assert (cost.source == 0) == (result.request.mode == "joint")


def test_a_recording_made_on_the_way_serves_what_it_holds(model: LoadedModel) -> None:
    request = EditRequest(target_prompts=("a dog",), compare=False)
    session = invert(model, random_picture(), InversionRequest(method="one-pass"), edit=request)
    assert session.edit(replace(request, start_step=2)).passes["source"] == 0
    assert session.edit(replace(request, start_step=0)).passes["source"] == STEPS


# Levels that are reached by adding noise are known before the network is asked: those are exact.
@pytest.mark.parametrize("fresh", [0, 2])
def test_direct_inversion_keeps_the_features_of_the_neighbouring_level(
    model: LoadedModel, fresh: int
) -> None:
    request = EditRequest(target_prompts=("a dog",), compare=False, start_step=0, half=False)
    session = invert(model, random_picture(), InversionRequest(fresh_steps=fresh), edit=request)
    assert session.passes == STEPS
    path = session.trajectory.latents
    inverted = STEPS - fresh
    off = replace(session.trajectory, latents=torch.cat([path[1 : inverted + 1], path[inverted:]]))
    asked = request.resolve(model.preset, STEPS)
    denoiser, key = Denoiser(model.pipeline), RecordingKey.of(asked, None, off)
    wanted = record_source(denoiser, model.pipeline, off, key).cache
    (found,) = session._recordings
    assert found.cache.timesteps == wanted.timesteps
    for step, timestep in wanted.timesteps.items():
        for layer in (10, 15):
            kept, same = (one.get(step, timestep, layer) for one in (found.cache, wanted))
            assert relative(kept, same) < 1e-5

    near = session.edit(request)
    assert near.passes["source"] == 0
    assert near.request.mode == "ahead"
    exact = session.edit(replace(request, mode="cached"))
    assert exact.passes["source"] == STEPS
    assert exact.request.mode == "cached"
    # What is exact serves both, and says so.
    assert session.edit(request).request.mode == "cached"
    joint = session.edit(replace(request, mode="joint"))
    assert relative(exact.latents["target1-controlled"], joint.latents["target1-controlled"]) < 1e-4
