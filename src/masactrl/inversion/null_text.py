r"""Null-text inversion (Mokady et al., arXiv 2211.09794), for the comparison.

    z*_i     DDIM inversion with the source prompt and without guidance              (pivots)
    for i = 0 .. N-1, from z_0 = z*_0:
        u_i = argmin_u || z*_{i+1} - down(z_i, eps_u + w (eps_c - eps_u)) ||^2      (Eq. 3)
        z_{i+1} = down(z_i, ...) with u_i;   u_{i+1} starts from u_i

u is the unconditional embedding, w the guidance. Adam with a falling rate, stopped early, as in the
authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from masactrl.diffusion import Trajectory, guided, step_down
from masactrl.errors import ConfigError, PromptError
from masactrl.inversion.ddim import DDIM
from masactrl.inversion.task import Inversion
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.inversion.task import InversionTask

__all__ = ["NullText"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NullText(Inversion):
    """One optimised unconditional embedding per step; needs a source prompt and guidance.

    Attributes:
        iterations: steps of Adam per denoising step, at least 1 (the authors' code: 10).
        rate: learning rate at the first step; falls to half at the last.
        tolerance: mean squared error at which a step is done; grows a little with the steps.
    """

    iterations: int = 10
    rate: float = 1e-2
    tolerance: float = 1e-5
    name: ClassVar[str] = "null-text"

    def __post_init__(self) -> None:
        settle(self)
        if self.iterations < 1 or self.rate <= 0 or self.tolerance < 0:
            raise ConfigError(
                f"iterations={self.iterations}, rate={self.rate}, tolerance={self.tolerance} were "
                "given; accepted are at least 1, above 0, and 0 or more."
            )

    def passes(self, steps: int, branches: int) -> int:
        """Inversion, all inner steps forwards and backwards (about two more), and the step."""
        del branches
        return steps * (1 + 1 + 3 * self.iterations + 1)

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        if not task.prompt.strip():
            raise PromptError(
                "Null-text inversion needs the source prompt that its guidance is to lead towards; "
                "say what the picture shows, or use direct inversion."
            )
        if task.guidance == 1:
            raise ConfigError(
                "Null-text inversion makes up for guidance, and guidance 1 is none; give the "
                "guidance that the targets will have."
            )
        pivots = DDIM()(replace(task, guidance=1.0, on_step=None))
        embeddings = self._optimise(task, pivots.latents.to(task.latents))
        return replace(
            pivots,
            method=self.name,
            guidance=task.guidance,
            unconditional=embeddings,
            options=self.settings(),
        )

    def _optimise(self, task: InversionTask, pivots: Tensor) -> Tensor:
        """Return the embeddings (steps, words, width)."""
        denoiser, schedule = task.denoiser, task.schedule
        text = denoiser.encode_text([task.prompt, ""])
        c, null = text.row(0), text.row(1)
        u = null.hidden.float()
        z, found = pivots[0], []
        for step, timestep in enumerate(schedule.timesteps):
            a, a_next = schedule.alpha_bar[step : step + 2]
            wanted, here = pivots[step + 1], z
            with torch.no_grad():
                said = denoiser.predict(here, timestep, c)

            def down(
                u: Tensor,
                here: Tensor = here,
                timestep: float = timestep,
                said: Tensor = said,
                step: int = step,
                levels: tuple[float, float] = (a, a_next),
            ) -> Tensor:
                nothing = denoiser.predict(here, timestep, null.with_hidden(u))
                output = guided(nothing, said, task.guidance)
                eps = schedule.noise_in(output, here, step)
                return step_down(here, eps, *levels)

            rate = self.rate * (1 - step / (2 * schedule.steps))
            u = _adam(
                lambda u, down=down, wanted=wanted: (down(u) - wanted).square().mean(),
                u,
                rate=rate,
                iterations=self.iterations,
                tolerance=self.tolerance * (1 + 2 * step),
            )
            found.append(u)
            with torch.no_grad():
                z = down(u)
            task.done(step)
        return torch.cat(found)


def _adam(loss: Any, start: Tensor, *, rate: float, iterations: int, tolerance: float) -> Tensor:
    """Return where Adam leads from `start`; only that tensor is differentiated."""
    with torch.enable_grad():
        u = start.detach().clone().requires_grad_(True)
        adam = torch.optim.Adam([u], lr=rate)
        for _ in range(iterations):
            value = loss(u)
            # Not backward(): that would fill the gradients of the network's weights, too.
            (u.grad,) = torch.autograd.grad(value, [u])
            adam.step()
            if value.item() < tolerance:
                break
    return u.detach()
