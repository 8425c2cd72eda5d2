"""The parts of a measurement: making pictures, judging a pair of them, taking means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.attention.networks import network_of
from masactrl.models.drawing import draw
from masactrl.models.joint import latent_channels
from masactrl.puppets.colour import srgb_to_lab
from masactrl.puppets.identity import identity
from masactrl.puppets.inspector import Inspector, Reading
from masactrl.puppets.measured import EditSide, EditTask

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_MOST_DB: Final = 60.0  # equal pictures: a difference below a quarter of an 8-bit level
_GROW: Final = 3  # pixels by which masks grow before the background is compared


@dataclass(frozen=True, slots=True)
class PipelineRunner:
    """A pipeline with the settings of one measurement; its noise is the same for any batch size."""

    pipeline: StableDiffusionPipeline
    steps: int
    guidance: float
    size: int | None
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        pipeline: StableDiffusionPipeline,
        *,
        steps: int,
        guidance: float,
        size: int | None,
        seed: int,
    ) -> PipelineRunner:
        """A runner whose noise comes from ``seed``; ``size`` None is the model's own."""
        return cls(pipeline, steps, guidance, size, torch.Generator().manual_seed(seed))

    def noise(self, count: int) -> Tensor:
        """(count, c, h, w) start noise; drawn picture by picture, so in order of the pictures."""
        denoiser: Any = network_of(self.pipeline)[1]
        factor, own = self.pipeline.vae_scale_factor, denoiser.config.sample_size
        sides = (own, own) if isinstance(own, int) else tuple(own)
        if self.size is not None:
            sides = (self.size // factor,) * 2
        shape = (latent_channels(self.pipeline), *sides)
        drawn = [
            torch.randn(shape, generator=self.generator, dtype=torch.float32, device="cpu")
            for _ in range(count)
        ]
        return torch.stack(drawn).to(self.pipeline.device, denoiser.dtype)

    def pictures(self, prompts: Sequence[str], noise: Tensor) -> Tensor:
        """(n, 3, h, w) float32 in [0, 1] on the CPU, one per prompt and noise."""
        images = draw(self.pipeline, prompts, noise, steps=self.steps, guidance_scale=self.guidance)
        return images.float().cpu()


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """Pictures (n, 3, h, w) in [0, 1] and what the inspector reads in them."""

    pictures: Tensor
    reading: Reading

    @classmethod
    def of(cls, pictures: Tensor, inspector: Inspector) -> JudgedBatch:
        """Read the pictures."""
        return cls(pictures, inspector.read(pictures))


class Means:
    """Collects pairs, then gives their means."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, tasks: Sequence[EditTask], source: JudgedBatch, target: JudgedBatch) -> None:
        """Judge n pairs: what was asked, the sources, the targets."""
        seen, was = target.reading, source.reading
        apart = identity(was, seen)
        for name in ("colours", "coat", "accent", "pattern"):
            self._note(name, getattr(apart, name))
        self._note("action", ~_differ([t.target_action for t in tasks], seen.action))
        self._note("species", ~_differ([t.species for t in tasks], seen.species))
        self._note("facing", ~_differ([t.facing for t in tasks], seen.facing))
        self._note("place", ~_differ([t.place for t in tasks], seen.place))
        animals = torch.maximum(was.mask, seen.mask)
        self._note("background", background_psnr(source.pictures, target.pictures, animals))

    def _note(self, name: str, values: Tensor) -> None:
        self._values.setdefault(name, []).append(values.float())

    def side(self) -> EditSide:
        """The means over all pairs so far."""
        return EditSide(**{n: torch.cat(v).mean().item() for n, v in self._values.items()})


def _differ(first: Sequence[str], second: Sequence[str]) -> Tensor:
    return torch.tensor([a != b for a, b in zip(first, second, strict=True)])


def background_psnr(first: Tensor, second: Tensor, animals: Tensor) -> Tensor:
    """PSNR in dB, at most 60, of two pictures where neither shows an animal.

    Args:
        first, second: (n, 3, h, w) in [0, 1].
        animals: (n, 1, h, w) probability that either shows an animal; grown by three pixels here,
            because a blurred outline belongs to the animal.

    Returns:
        (n,) dB.
    """
    ground = _ground(animals)
    error = ((first - second).square() * ground).sum((1, 2, 3))
    mean = error / (3 * ground.sum((1, 2, 3))).clamp(min=1)
    return (-10 * torch.log10(mean.clamp(min=1e-9))).clamp(max=_MOST_DB)


def background_lab(pictures: Tensor, animals: Tensor) -> Tensor:
    """Mean colour in CIELAB where a picture shows no animal.

    Args:
        pictures, animals: as in `background_psnr`.

    Returns:
        (n, 3); the mean of the whole picture where the animal fills it.
    """
    ground = _ground(animals)
    ground = torch.where(ground.amax((1, 2, 3), keepdim=True) > 0, ground, torch.ones_like(ground))
    lab = srgb_to_lab(pictures.movedim(1, -1)).movedim(-1, 1)
    return (lab * ground).sum((2, 3)) / ground.sum((2, 3))


def _ground(animals: Tensor) -> Tensor:
    """(n, 1, h, w) 1 where no animal is near, else 0."""
    return 1 - F.max_pool2d((animals > 0.5).float(), 2 * _GROW + 1, 1, _GROW)
