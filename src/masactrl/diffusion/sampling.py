"""The one loop from noise to picture; whatever is special about a run is handed in.

Rows of a run are images. Row 0 may be a source whose whole path is known: it is put back on that
path before every step (the official code's `ref_intermediate_latents`) and at the end, which the
official code leaves out, so that the source ends exactly where its path does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import torch

from masactrl.diffusion.ddim import Walk, step_down
from masactrl.diffusion.flow import FlowRule, flow_step
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.diffusion.noise import NoiseSchedule

__all__ = ["Adjust", "OnStep", "Predict", "Steer", "denoise", "put_back"]

Predict = Callable[["Tensor", float], "Tensor"]
"""(latents (n, c, h, w), step) to the network's output of the same shape, guidance applied.

Flows ask in the middle of a step too, as 2.5.
"""

Steer = Callable[[int, "Tensor", "Tensor"], "Tensor"]
"""(step, latents, eps) to the eps that is used."""

Adjust = Callable[[int, "Tensor"], "Tensor"]
"""(level 1 to N, latents at that level) to the latents that are used."""

OnStep = Callable[[int, float], None]
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
        steer: changes the predicted noise; flows predict none and refuse it.
        adjust: changes the latents that a step has made.
        on_step: told about every finished step.
    """
    rule = _rule(schedule, walk, steer)
    z, carried = start, None
    for step, timestep in enumerate(schedule.timesteps):
        z = put_back(z, path, step)
        if rule is not None:
            z, carried = flow_step(predict, z, step, step + 1, schedule, rule, carried)
        else:
            eps = schedule.noise_in(predict(z, step), z, step)
            if steer is not None:
                eps = steer(step, z, eps)
            w = None if noise is None else noise[step].to(z)
            a, a_next = schedule.alpha_bar[step : step + 2]
            z = step_down(z, eps, a, a_next, walk=walk, w=w)
        z = put_back(z, path, step + 1)
        if adjust is not None:
            z = adjust(step + 1, z)
        if on_step is not None:
            on_step(step, timestep)
    return z


def _rule(schedule: NoiseSchedule, walk: Walk, steer: Steer | None) -> FlowRule | None:
    """The rule of a flow; None for diffusion."""
    rule: FlowRule | None = next((one for one in get_args(FlowRule) if one == walk), None)
    if (rule is None) != (schedule.kind == "diffusion") or (rule and steer):
        raise ConfigError(
            f"The walk {walk!r} does not fit noise levels of the kind {schedule.kind}; flows are "
            f"walked by {', '.join(get_args(FlowRule))} and corrected by nothing."
        )
    return rule


def put_back(z: Tensor, path: Tensor | None, level: int) -> Tensor:
    """Return the latents with row 0 on its path at that level; as they are without a path."""
    if path is None:
        return z
    return torch.cat([path[level].to(z), z[1:]])
