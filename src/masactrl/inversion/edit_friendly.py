r"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., arXiv 2304.06140).

    z_i = sqrt(a_i) z_0 + sqrt(1 - a_i) eps_i           noise of its own at every level   (Eq. 6)
    w_i = (z_{i+1} - mu_i(z_i)) / sigma_i               the fresh noise that leads there

The steps down are those of DDPM (eta = 1), whose fresh noise w_i is kept: with the same words the
source comes back exactly, with other words the same w_i carry its shape over.

With few steps the w_i are larger than the noise that a step expects, by about what belongs to a
level 200 timesteps noisier. TurboEdit (Deutch et al., arXiv 2408.00735) therefore tells network and
steps a timestep t_i that is noisier than the latents:

    z_i = sqrt(a(t_i - shift)) z_0 + sqrt(1 - a(t_i - shift)) eps_i     z_0 where t_i <= shift

Its pseudo-guidance, mu(z, P_s) + w (mu(z, P) - mu(z, P_s)), belongs to the edit and is there: mu is
affine in eps, so that it is guidance of scale w with the source's words as negative prompt. Its
code also cuts the norm of the last w_i, after which the source would not come back by itself; on
the embedded model that changed nothing that is seen, and it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from masactrl.diffusion import Trajectory, mean_down, spread
from masactrl.errors import ConfigError
from masactrl.inversion.task import Inversion
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from masactrl.diffusion import NoiseSchedule, Spacing
    from masactrl.inversion.task import InversionTask

__all__ = ["EditFriendly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditFriendly(Inversion):
    """Independent noise at every level, and the DDPM steps between them.

    Attributes:
        noise_shift: timesteps of the training by which the network is told a noisier level than
            that of the latents, 0 and more; TurboEdit's is 200, for 3 or 4 steps. Timesteps begin
            at the noisiest ("trailing") with a shift, as few-step models have them.
    """

    noise_shift: int = 0
    name: ClassVar[str] = "edit-friendly"

    def __post_init__(self) -> None:
        settle(self)
        if self.noise_shift < 0:
            raise ConfigError(f"noise_shift={self.noise_shift} was given; use 0 or more.")

    @property
    def spacing(self) -> Spacing | None:
        """The model's own without a shift."""
        return "trailing" if self.noise_shift else None

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        schedule, predict = task.schedule, task.source()
        levels = self._shifted(task) if self.noise_shift else schedule
        path = [
            levels.noised(task.latents, eps, level)
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
                noise.append(rest / (sigma or 1.0))
                task.done(step)
        return self.trajectory(
            task,
            torch.stack(path),
            walk="ddpm",
            noise=torch.stack(noise),
            options={"seed": task.seed, **self.settings()},
        )

    def _shifted(self, task: InversionTask) -> NoiseSchedule:
        """The levels that the latents have in truth, in place of those that are told."""
        schedule, shift = task.schedule, self.noise_shift
        if shift >= schedule.timesteps[0]:
            raise ConfigError(
                f"noise_shift={shift} was given, and this run of {schedule.steps} steps begins at "
                f"timestep {schedule.timesteps[0]:g}, from which no noise would be left; accepted "
                f"is 0 to {schedule.timesteps[0] - 1:g}."
            )
        alpha_bar = task.denoiser.alpha_bar([t - shift for t in schedule.timesteps])
        return replace(schedule, alpha_bar=(*alpha_bar, schedule.alpha_bar[-1]))
