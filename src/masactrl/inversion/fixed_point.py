r"""DDIM inversion that solves every step instead of guessing it.

    z = up(z_{i+1}, eps(z, t_i))     repeated from z = z_{i+1}: each round asks the network about
                                     the last round's answer instead of the cleaner latent

The first round is plain DDIM inversion. A round that moves the latents further than the one before
it (the iteration does not contract there) ends the step, and the closest answer is kept. The idea
is that of AIDI (arXiv 2309.04907) and SPDInv (2403.11105). Of a flow it is Euler's step that is
solved, z = z_{i+1} + (s_i - s_{i+1}) v(z, s_i).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.diffusion import NoiseKind, Trajectory, step_up
from masactrl.errors import ConfigError
from masactrl.inversion.task import climb
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.inversion.task import InversionTask

__all__ = ["FixedPoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """DDIM inversion with fixed-point refinement; reconstructs without replay.

    Attributes:
        iterations: rounds per step, at least 1; 1 is plain DDIM inversion.
        tolerance: relative change of the latents at which a step is solved.
    """

    iterations: int = 5
    tolerance: float = 1e-4
    name: ClassVar[str] = "fixed-point"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("diffusion", "flow")
    replay: ClassVar[bool] = False
    visits: ClassVar[Literal["at"]] = "at"
    spacing: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        if self.iterations < 1:
            raise ConfigError(f"iterations={self.iterations} was given; use 1 or more.")
        if self.tolerance < 0:
            raise ConfigError(f"tolerance={self.tolerance} was given; use 0 or more.")

    def passes(self, steps: int, branches: int) -> int:
        """All rounds; fewer where steps are solved earlier."""
        return steps * branches * self.iterations

    def settings(self) -> dict[str, Any]:
        """Rounds and tolerance."""
        return {"iterations": self.iterations, "tolerance": self.tolerance}

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        predict, schedule = task.source(), task.schedule
        flow = schedule.kind == "flow"

        def up(z_next: Tensor, level: int) -> Tensor:
            z, moved = z_next, float("inf")
            for _ in range(self.iterations):
                output = predict(z, level)
                if flow:
                    better = z_next + (schedule.sigma[level] - schedule.sigma[level + 1]) * output
                else:
                    eps = schedule.noise_in(output, z, level)
                    a_next, a = schedule.alpha_bar[level + 1], schedule.alpha_bar[level]
                    better = step_up(z_next, eps, a_next, a)
                change = float((better - z).norm() / better.norm())
                if change > moved:
                    break
                z, moved = better, change
                if change <= self.tolerance:
                    break
            return z

        return Trajectory(
            latents=climb(task, up),
            schedule=schedule,
            method=self.name,
            prompt=task.prompt,
            guidance=task.guidance,
            replay=self.replay,
            walk="euler" if flow else "ddim",
            options=self.settings(),
        )
