"""What tests of edits share: a tiny model, a picture, masks, and runs down to the last latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from masactrl.diffusion import OnStep
from masactrl.models import LoadedModel, ModelPreset
from masactrl.models.denoiser import Denoiser
from masactrl.runs.edit import EditRun, Outcome
from masactrl.runs.invert import EditMasks, EditRequest
from masactrl.runs.masks import plan_masks
from masactrl.runs.recording import RecordingKey, record_source
from masactrl.runs.session import EditSession

WIDTH, HEIGHT, STEPS = 61, 48, 3
TARGETS = ("a dog running", "a red horse")

Inverted = Callable[..., EditSession]
"""`inverted(**options)` is the picture, inverted with these options; once for all tests."""


def loaded(pipeline: Any, layer: int = 10) -> LoadedModel:
    preset = ModelPreset(
        steps=STEPS, guidance_scale=7.5, start_step=1, start_layer=layer, height=48, width=64
    )
    return LoadedModel(pipeline=pipeline, name="tiny", family="sd", preset=preset)


def random_picture(seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def half_mask(side: str) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH))
    mask[:, : WIDTH // 3] = 1
    return mask if side == "left" else mask[:, ::-1].copy()


MASKS = EditMasks(source=half_mask("left"), targets=half_mask("right"))
WORDS = EditMasks(source="cat", targets=("dog", "horse"), threshold=0.4)


def outcome(session: EditSession, request: EditRequest, on_step: OnStep | None = None) -> Outcome:
    """The final latents, before the VAE and 256 levels hide small differences."""
    settings = request.resolve(session.model.preset, session.trajectory.steps)
    pipeline, denoiser = session.model.pipeline, Denoiser(session.model.pipeline)
    masks = settings.masks and plan_masks(
        settings.masks, session.framing, session.trajectory.prompt, settings.target_prompts
    )
    recording = None
    if settings.mode != "joint":
        key = RecordingKey.of(settings, masks, session.trajectory)
        words = masks.recording() if masks else None
        recording = record_source(denoiser, pipeline, session.trajectory, key, words=words)
    return EditRun(
        denoiser=denoiser,
        pipeline=pipeline,
        trajectory=session.trajectory,
        framing=session.framing,
        request=settings,
        masks=masks,
        recording=recording,
        on_step=on_step,
    )()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.cpu() - other.cpu()).abs().max() / other.abs().max())
