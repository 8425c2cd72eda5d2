"""Inversion, replay and control against the official code's loops with explicit attention."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from oracles.literal import Literal
from oracles.literal_inversion import LiteralPipeline, turbo_edit
from PIL import Image
from torch import Tensor

from masactrl.models import LoadedModel, ModelPreset
from masactrl.models.denoiser import Denoiser
from masactrl.runs.edit import EditRun, Outcome
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.recording import RecordingKey, record_source

STEPS, SCALE, S, L = 4, 7.5, 1, 10
TARGET = "a dog running"


def loaded(offset: int) -> LoadedModel:
    pipeline = tiny_models.sd()
    # A random network blows rounding up a thousandfold within a few steps; float64 has the room.
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.double()
    pipeline.scheduler.register_to_config(steps_offset=offset)
    preset = ModelPreset(
        steps=STEPS, guidance_scale=SCALE, start_step=S, start_layer=L, height=64, width=64
    )
    return LoadedModel(pipeline=pipeline, name="tiny", family="sd", preset=preset)


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def literal(model: LoadedModel, z_0: Tensor, prompt: str, *, replay: bool) -> tuple[Tensor, Tensor]:
    """The official noise and the official final latents of source and target."""
    pipeline = tiny_models.sd()
    pipeline.unet.double()
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    words = Denoiser(model.pipeline).encode_text([prompt, TARGET, ""]).hidden

    def unet(x: Tensor, timestep: int, text: Tensor) -> Tensor:
        return pipeline.unet(x, timestep, encoder_hidden_states=text).sample

    official = LiteralPipeline(
        unet,
        scheduler.alphas_cumprod,
        float(scheduler.final_alpha_cumprod),
        scheduler.timesteps.tolist(),
    )
    with torch.no_grad():
        path = official.invert(z_0, words[:1], words[2:], 1.0)
        Literal(
            pipeline.unet,
            reads=[[0], [0]],
            branches=2,
            latent=(z_0.shape[-2], z_0.shape[-1]),
            start_step=S,
            start_layer=L,
        )
        edited = official.edit(
            path[-1].repeat(2, 1, 1, 1),
            words[:2],
            words[2:].repeat(2, 1, 1),
            SCALE,
            path if replay else None,
        )
    return path[-1], edited


@pytest.mark.parametrize(
    ("method", "replay", "offset", "mode"),
    [
        ("direct", True, 1, "joint"),
        ("direct", True, 0, "cached"),
        ("ddim", False, 1, "cached"),
        ("ddim", False, 0, "joint"),
    ],
)
def test_inversion_and_edit_are_the_official_ones(
    method: str, replay: bool, offset: int, mode: str
) -> None:
    model = loaded(offset)
    session = invert(model, picture(), InversionRequest(method=method))
    wanted, edited = literal(model, session.trajectory.latents[-1], "", replay=replay)
    found = session.trajectory.start
    assert (found - wanted).abs().max() / wanted.abs().max() < 1e-7

    request = EditRequest(target_prompts=(TARGET,), mode=mode, half=False)  # type: ignore[arg-type]
    outcome = run(model, session.trajectory, session.framing, request)
    scale = edited.abs().max()
    assert (outcome.controlled - edited[1:]).abs().max() / scale < 1e-7
    if replay:  # the official code leaves the last source latent uncorrected
        assert torch.equal(outcome.source.cpu(), session.trajectory.latents[-1])
    else:
        assert (outcome.source - edited[:1]).abs().max() / scale < 1e-7
    plain = outcome.uncontrolled
    assert plain is not None
    assert (outcome.controlled - plain).abs().max() / scale > 1e-2


@pytest.mark.parametrize(("shift", "w"), [(200, 1.0), (200, 1.5), (260, 1.5)])
def test_a_shifted_edit_friendly_edit_is_turbo_edit_s(shift: int, w: float) -> None:
    model, source = loaded(1), "a cat"
    asked = InversionRequest(
        method="edit-friendly", source_prompt=source, steps=STEPS, seed=3, noise_shift=shift
    )
    session = invert(model, picture(), asked)
    z_0, unet = session.trajectory.latents[-1], model.pipeline.unet
    drawn = torch.randn(
        (STEPS, *z_0.shape), generator=torch.Generator().manual_seed(3), dtype=torch.float32
    ).double()
    words = Denoiser(model.pipeline).encode_text([source, TARGET]).hidden
    with torch.no_grad():
        path, edited = turbo_edit(
            lambda x, t, text: unet(x, t, encoder_hidden_states=text).sample,
            model.pipeline.scheduler.alphas_cumprod.double().tolist(),
            [999, 749, 499, 249],
            z_0,
            drawn,
            (words[:1], words[1:]),
            shift,
            w,
        )
    found = session.trajectory.latents
    assert (found - torch.stack(path)).abs().max() / found.abs().max() < 1e-7
    assert (shift > 249) == torch.equal(found[-2], found[-1])

    # Pseudo-guidance is guidance away from the source's words.
    request = EditRequest(
        target_prompts=(TARGET,), guidance_scale=w, negative_prompt=source, mode="joint"
    )
    plain = run(model, session.trajectory, session.framing, request).uncontrolled
    assert plain is not None
    assert (plain - edited).abs().max() / edited.abs().max() < 1e-7


def test_no_shift_is_edit_friendly_as_it_was() -> None:
    model = loaded(1)
    plain, none = (
        invert(
            model,
            picture(),
            InversionRequest(method="edit-friendly", source_prompt="a cat", noise_shift=shift),
        ).trajectory
        for shift in (None, 0)
    )
    assert none.recipe() == plain.recipe()
    for name, tensor in plain.tensors().items():
        assert torch.equal(none.tensors()[name], tensor), name


def run(model: LoadedModel, trajectory: object, framing: object, request: EditRequest) -> Outcome:
    settings = request.resolve(model.preset, STEPS)
    denoiser = Denoiser(model.pipeline)
    recording = None
    if request.mode == "cached":
        key = RecordingKey.of(settings, None, trajectory)  # type: ignore[arg-type]
        recording = record_source(denoiser, model.pipeline, trajectory, key)  # type: ignore[arg-type]
    return EditRun(
        denoiser=denoiser,
        pipeline=model.pipeline,
        trajectory=trajectory,  # type: ignore[arg-type]
        framing=framing,  # type: ignore[arg-type]
        request=settings,
        recording=recording,
    )()
