r"""DDIM inversion that solves every step instead of guessing it.

    F(z) = up(z_{i+1}, eps(z, t_i))          z is wanted that is its own answer, z = F(z)
    z   <- F(z) - theta (F(z) - F(z'))       z' of the round before, r = F(z) - z
    theta = <r, r - r'> / |r - r'|^2

The first round is plain DDIM inversion: it asks the network about the cleaner latent. Plain
repetition of F creeps or swings to and fro at some levels, where it ends further away than DDIM;
Anderson's acceleration of depth one, a secant along the last move, solves those, too, at the same
cost. The answer of the round that was nearest to a solution is kept. The idea is that of AIDI
(arXiv 2309.04907) and SPDInv (2403.11105). Of a flow it is Euler's step that is solved, F(z) =
z_{i+1} + (s_i - s_{i+1}) v(z, s_i).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from masactrl.diffusion import NoiseKind, Trajectory, step_up
from masactrl.errors import ConfigError
from masactrl.inversion.task import Inversion, climb
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.inversion.task import InversionTask

__all__ = ["FixedPoint"]

_TINY = 1e-20


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint(Inversion):
    """DDIM inversion with fixed-point refinement; reconstructs without replay.

    Attributes:
        iterations: rounds per step, at least 1; 1 is plain DDIM inversion.
        tolerance: relative change of the latents at which a step is solved.
    """

    iterations: int = 5
    tolerance: float = 1e-4
    name: ClassVar[str] = "fixed-point"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("diffusion", "flow")
    visits: ClassVar[Literal["at"]] = "at"

    def __post_init__(self) -> None:
        settle(self)
        if self.iterations < 1:
            raise ConfigError(f"iterations={self.iterations} was given; use 1 or more.")
        if self.tolerance < 0:
            raise ConfigError(f"tolerance={self.tolerance} was given; use 0 or more.")

    def passes(self, steps: int, branches: int) -> int:
        """All rounds; fewer where steps are solved earlier."""
        return steps * branches * self.iterations

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        predict, schedule = task.source(), task.schedule
        flow = schedule.kind == "flow"

        def once(z: Tensor, z_next: Tensor, level: int) -> Tensor:
            output = predict(z, level)
            if flow:
                return z_next + (schedule.sigma[level] - schedule.sigma[level + 1]) * output
            eps = schedule.noise_in(output, z, level)
            return step_up(z_next, eps, schedule.alpha_bar[level + 1], schedule.alpha_bar[level])

        def up(z_next: Tensor, level: int) -> Tensor:
            z, closest, nearest = z_next, z_next, float("inf")
            before: tuple[Tensor, Tensor] | None = None  # F(z') and r'
            for _ in range(self.iterations):
                answer = once(z, z_next, level)
                rest = answer - z
                left = float(rest.norm() / answer.norm())
                if left >= nearest:  # the secant led astray: on from the closest, plainly
                    z, before = closest, None
                    continue
                closest, nearest = answer, left
                if left <= self.tolerance:
                    break
                z = answer
                if before is not None:
                    turn = rest - before[1]
                    theta = (rest * turn).sum() / turn.square().sum().clamp(min=_TINY)
                    z = answer - theta * (answer - before[0])
                before = answer, rest
            return closest

        return self.trajectory(task, climb(task, up))
