r"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., arXiv 2304.06140).

    z_i = sqrt(a_i) z_0 + sqrt(1 - a_i) eps_i           noise of its own at every level   (Eq. 6)
    w_i = (z_{i+1} - mu_i(z_i)) / sigma_i               the fresh noise that leads there

The steps down are those of DDPM (eta = 1), whose fresh noise w_i is kept: with the same words the
source comes back exactly, with other words the same w_i carry its shape over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from masactrl.diffusion import NoiseKind, Trajectory, mean_down, spread

if TYPE_CHECKING:
    from masactrl.inversion.task import InversionTask

__all__ = ["EditFriendly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditFriendly:
    """Independent noise at every level, and the DDPM steps between them."""

    name: ClassVar[str] = "edit-friendly"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("diffusion",)
    replay: ClassVar[bool] = False
    spacing: ClassVar[None] = None

    def passes(self, steps: int, branches: int) -> int:
        """One row per step and branch."""
        return steps * branches

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        schedule, predict = task.schedule, task.source()
        path = [
            schedule.noised(task.latents, eps, level)
            for level, eps in enumerate(task.draw(schedule.steps))
        ]
        path.append(task.latents)
        noise = []
        with torch.no_grad():
            for step in range(schedule.steps):
                a, a_next = schedule.alpha_bar[step : step + 2]
                sigma = spread("ddpm", a, a_next)
                eps = schedule.noise_in(predict(path[step], step), path[step], step)
                rest = path[step + 1] - mean_down(path[step], eps, a, a_next, sigma)
                noise.append(rest / sigma if sigma > 0 else rest * 0)
                task.done(step)
        return Trajectory(
            latents=torch.stack(path),
            schedule=schedule,
            method=self.name,
            prompt=task.prompt,
            guidance=task.guidance,
            replay=self.replay,
            walk="ddpm",
            noise=torch.stack(noise),
            options={"seed": task.seed},
        )
