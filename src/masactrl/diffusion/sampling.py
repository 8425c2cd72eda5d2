"""The one loop from noise to picture; whatever is special about a run is handed in.

Rows of a run are images. Row 0 may be a source whose whole path is known: it is put back on that
path before every step (the official code's `ref_intermediate_latents`) and at the end, which the
official code leaves out, so that the source ends exactly where its path does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from masactrl.diffusion.ddim import Walk, step_down

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.diffusion.noise import NoiseSchedule

__all__ = ["Adjust", "OnStep", "Predict", "Steer", "denoise", "put_back"]

Predict = Callable[["Tensor", int], "Tensor"]
"""(latents (n, c, h, w), step) to the network's output of the same shape, guidance applied."""

Steer = Callable[[int, "Tensor", "Tensor"], "Tensor"]
"""(step, latents, eps) to the eps that is used."""

Adjust = Callable[[int, "Tensor"], "Tensor"]
"""(level 1 to N, latents at that level) to the latents that are used."""

OnStep = Callable[[int, int], None]
"""(step, timestep) after every step."""


def denoise(
    predict: Predict,
    start: Tensor,
    schedule: NoiseSchedule,
    *,
    walk: Walk = "ddim",
    noise: Tensor | None = None,
    path: Tensor | None = None,
    steer: Steer | None = None,
    adjust: Adjust | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return the final latents (n, c, h, w).

    Args:
        predict: see `Predict`.
        start: latents at level 0 (n, c, h, w).
        schedule: the levels.
        walk: see `Walk`.
        noise: fresh noise of each step (steps, 1, c, h, w), for walks that take some.
        path: of row 0, the latents at all levels (steps + 1, 1, c, h, w); None lets it go free.
        steer: changes the predicted noise.
        adjust: changes the latents that a step has made.
        on_step: told about every finished step.
    """
    z = start
    for step, timestep in enumerate(schedule.timesteps):
        z = put_back(z, path, step)
        eps = schedule.noise_in(predict(z, step), z, step)
        if steer is not None:
            eps = steer(step, z, eps)
        w = None if noise is None else noise[step].to(z)
        a, a_next = schedule.alpha_bar[step : step + 2]
        z = put_back(step_down(z, eps, a, a_next, walk=walk, w=w), path, step + 1)
        if adjust is not None:
            z = adjust(step + 1, z)
        if on_step is not None:
            on_step(step, timestep)
    return z


def put_back(z: Tensor, path: Tensor | None, level: int) -> Tensor:
    """Return the latents with row 0 on its path at that level; as they are without a path."""
    if path is None:
        return z
    return torch.cat([path[level].to(z), z[1:]])
