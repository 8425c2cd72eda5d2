r"""One step along a flow, in either direction: dz/ds = v(z, s).

    euler      z' = z + (s' - s) v(z, s)                                        order 1
    midpoint   z' = z + (s' - s) v(z_m, s_m)      s_m = (s + s') / 2            order 2
               z_m = z + (s_m - s) v(z, s)                                      two evaluations
    fireflow   as midpoint, with v(z, s) in z_m replaced by the v(z_m, s_m) of the step before
                                                                                one evaluation

RF-Solver (Wang et al., arXiv 2411.04746) is the midpoint rule: its Taylor step z + h v + h^2/2 v'
with v' = (v(z_m, s_m) - v) / (h/2) is z + h v(z_m, s_m). FireFlow (Deng et al., arXiv 2412.07517)
keeps the order, since the velocity changes little from one middle to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.diffusion.noise import NoiseSchedule

__all__ = ["FlowRule", "flow_step"]

FlowRule = Literal["euler", "midpoint", "fireflow"]
"""How a step is made; see the head of this file."""

Velocity = Callable[["Tensor", float], "Tensor"]
"""(latents, level) to v, of their shape; a level of 2.5 is the middle between two."""


def flow_step(
    velocity: Velocity,
    z: Tensor,
    here: int,
    there: int,
    schedule: NoiseSchedule,
    rule: FlowRule = "euler",
    carried: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the latents at level `there`, and the velocity that FireFlow's next step begins with.

    Args:
        velocity: see `Velocity`.
        z: latents at level `here`, any shape.
        here, there: neighbouring levels of `schedule`; down (towards the picture) or up.
        schedule: of prediction "flow".
        rule: see `FlowRule`.
        carried: what the step before returned; None at the first.
    """
    gap = schedule.sigma[there] - schedule.sigma[here]
    if rule == "euler":
        return z + gap * velocity(z, here), None
    first = carried if rule == "fireflow" and carried is not None else velocity(z, here)
    middle = velocity(z + gap / 2 * first, (here + there) / 2)
    return z + gap * middle, middle
