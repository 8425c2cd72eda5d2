r"""One-pass inversion: every level of the trajectory is a latent that the network was asked about.

    p_i   = up(c_{i+1}, eps_{i+1})     predictor, with the noise that the step before found
    eps_i = eps(p_i, t_i)              the one evaluation of the step, at the level itself
    c_i   = up(c_{i+1}, eps_i)         corrector, from which the next step goes on

The trajectory is p. DDIM inversion asks about the cleaner neighbour of every latent, so that what
a target reads of its source has to be computed in a pass of its own; here it is computed while
inverting, and an edit in N steps takes N evaluations less. The source is put back on p at every
step, as in direct inversion. Predictor and corrector are those of Uni-Inv (arXiv 2504.13109), for
the steps of DDIM, and of Euler in flows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from masactrl.diffusion import NoiseKind, Trajectory, step_up
from masactrl.inversion.task import Inversion, climb

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.inversion.task import InversionTask

__all__ = ["OnePass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePass(Inversion):
    """Predictor and corrector, with replay; the source's features can be kept on the way."""

    name: ClassVar[str] = "one-pass"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("diffusion", "flow")
    replay: ClassVar[bool] = True
    visits: ClassVar[Literal["at"]] = "at"

    def passes(self, steps: int, branches: int) -> int:
        """One row per step and branch, and one to begin with."""
        return (steps + 1) * branches

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        predict, schedule = task.source(), task.schedule
        flow = schedule.kind == "flow"
        eps: Tensor | None = None
        visited = [task.latents]

        def asked(z: Tensor, level: int) -> Tensor:
            output = predict(z, level)
            return output if flow else schedule.noise_in(output, z, level)

        def moved(z: Tensor, eps: Tensor, level: int) -> Tensor:
            if flow:
                return z + (schedule.sigma[level] - schedule.sigma[level + 1]) * eps
            return step_up(z, eps, schedule.alpha_bar[level + 1], schedule.alpha_bar[level])

        def up(z_next: Tensor, level: int) -> Tensor:
            nonlocal eps
            before = asked(z_next, level) if eps is None else eps
            visited.append(moved(z_next, before, level))
            eps = asked(visited[-1], level)
            return moved(z_next, eps, level)

        climb(task, up)
        return self.trajectory(task, torch.stack(visited[::-1]))
