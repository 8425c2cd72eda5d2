"""Inversion, replay and control against the official code's loops with explicit attention."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from oracles.literal import Literal
from oracles.literal_inversion import LiteralPipeline
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

    outcome = run(model, session.trajectory, session.framing, mode)
    scale = edited.abs().max()
    assert (outcome.controlled - edited[1:]).abs().max() / scale < 1e-7
    if replay:  # the official code leaves the last source latent uncorrected
        assert torch.equal(outcome.source.cpu(), session.trajectory.latents[-1])
    else:
        assert (outcome.source - edited[:1]).abs().max() / scale < 1e-7
    plain = outcome.uncontrolled
    assert plain is not None
    assert (outcome.controlled - plain).abs().max() / scale > 1e-2


def run(model: LoadedModel, trajectory: object, framing: object, mode: str) -> Outcome:
    request = EditRequest(target_prompts=(TARGET,), mode=mode, half=False)  # type: ignore[arg-type]
    settings = request.resolve(model.preset, STEPS)
    denoiser = Denoiser(model.pipeline)
    recording = None
    if mode == "cached":
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
