"""A source for ComfyUI's sampler: one start for all rows, and, of a photo, its path to noise.

A photo's row is put on its own path before every call of the network, so what the targets read is
the photo at that noise level and not what the sampler has made of it so far. At the end the row is
the photo again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourcePath:
    """The sources' latents at every noise level, as the host's sampler scales them.

    `clean` (sources, channels, height, width); `levels` are noise levels, rising, `latents` the
    latents there. Between two levels the path is straight, which it is exactly when it was drawn
    with one noise, and nearly when it was inverted in many steps.
    """

    clean: Tensor
    levels: tuple[float, ...]
    latents: tuple[Tensor, ...]

    def at(self, sigma: float) -> Tensor:
        """The latents at a noise level; beyond the last one they go on straight."""
        levels = (0.0, *self.levels)
        latents = (self.clean, *self.latents)
        upper = next((i for i, level in enumerate(levels) if level >= sigma), len(levels) - 1)
        upper = max(upper, 1)
        low, high = levels[upper - 1], levels[upper]
        return torch.lerp(latents[upper - 1], latents[upper], (sigma - low) / (high - low))


def with_noise(clean: Tensor, noise: Tensor, highest: float) -> SourcePath:
    """z_sigma = z_0 + sigma eps, one eps for all levels: no inversion at all."""
    return SourcePath(clean=clean, levels=(highest,), latents=(clean + highest * noise,))


def inverted(clean: Tensor, sigmas: Sequence[float], seen: Sequence[Tensor]) -> SourcePath:
    """What a sampler that runs backwards passed: `seen[i]` at `sigmas[i]`, both rising."""
    if len(seen) != len(sigmas):
        raise ConfigError(
            f"The inversion passed {len(seen)} of {len(sigmas)} noise levels; it was broken off."
        )
    kept = [(s, z) for s, z in zip(sigmas, seen, strict=True) if s > 1e-3]
    return SourcePath(
        clean=clean, levels=tuple(s for s, _ in kept), latents=tuple(z for _, z in kept)
    )


class Replay:
    """Puts the rows of the sources on their path; wraps the host's `apply_model` and sampling."""

    def __init__(self, path: SourcePath) -> None:
        self._path = path
        self.images = 0

    def apply_model(self, executor: Any, x: Tensor, t: Tensor, *rest: Any, **named: Any) -> Any:
        """Call the network with the sources' own latents in their rows, in every branch."""
        if self.images and x.shape[0] % self.images == 0:
            own = self._path.at(float(t.flatten()[0])).to(x)
            x = x.clone()
            for first in range(0, x.shape[0], self.images):
                x[first : first + len(own)] = own
        return executor(x, t, *rest, **named)

    def finished(self, samples: Tensor) -> Tensor:
        """The result (images, channels, height, width) with the sources as they were given."""
        made = samples.clone()
        made[: len(self._path.clean)] = self._path.clean.to(made)
        return made
