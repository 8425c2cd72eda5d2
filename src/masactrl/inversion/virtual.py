r"""Virtual inversion (InfEdit, Xu et al., arXiv 2312.04965): no inversion pass at all.

    z_i^s = sqrt(a_i) z_0 + sqrt(1 - a_i) eps_i         the source at level i, with noise of its own
    eps^  = eps(z_i, P) + (eps_i - eps(z_i^s, P_s))     the target's prediction, less the error that
                                                        the network makes on the source, where the
                                                        answer is known
    z_{i+1} = sqrt(a_{i+1}) z_0^ + sqrt(1 - a_{i+1}) eps_{i+1}     z_0^ from eps^, new noise on it

Every step guesses the whole picture and noises it anew, which is how few-step consistency models
(LCM) are sampled; the timesteps begin at the noisiest ("trailing") for their sake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from masactrl.diffusion import Spacing, Trajectory
from masactrl.inversion.task import Inversion

if TYPE_CHECKING:
    from masactrl.inversion.task import InversionTask

__all__ = ["Virtual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtual(Inversion):
    """The source's path is drawn, not computed."""

    name: ClassVar[str] = "virtual"
    replay: ClassVar[bool] = True
    spacing: ClassVar[Spacing] = "trailing"

    def passes(self, steps: int, branches: int) -> int:
        """None."""
        del steps, branches
        return 0

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        schedule = task.schedule
        path = [
            schedule.noised(task.latents, eps, level)
            for level, eps in enumerate(task.draw(schedule.steps))
        ]
        path.append(task.latents)
        noise = [
            schedule.noise_between(path[level], task.latents, level)
            for level in range(1, schedule.steps + 1)
        ]
        for step in reversed(range(schedule.steps)):
            task.done(step)
        return self.trajectory(
            task,
            torch.stack(path),
            walk="consistency",
            corrected=True,
            noise=torch.stack(noise),
            options={"seed": task.seed},
        )
