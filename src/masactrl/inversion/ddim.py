r"""DDIM inversion: the way down, read backwards.

    z_i = up(z_{i+1}, eps(z_i, t_i))            what would be exact
        ~ up(z_{i+1}, eps(z_{i+1}, t_i))        what can be computed: the network is asked about the
                                                cleaner latent it has, at the noisier timestep

The paper inverts real pictures like this, with a null source prompt, because guidance towards words
makes the gap between the two lines too wide to come back. The gap is widest at the last, cleanest
steps, where a latent holds hardly any noise to find, least of all in smooth areas; `fresh_steps`
skips them (Staniszewski et al., arXiv 2410.23530): those levels are reached by adding noise
(z = sqrt(a) z_0 + sqrt(1 - a) eps), and only the way above them is inverted. The source then needs
replay to come back; its targets start from livelier noise.

Flows have no DDIM; direct inversion of SD3 and FLUX takes the steps of `uni_inv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.diffusion import Trajectory, step_up
from masactrl.errors import ConfigError
from masactrl.inversion.task import Inversion, climb
from masactrl.inversion.uni_inv import corrected_up
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from masactrl.inversion.task import InversionTask
    from masactrl.models.guided import Guided

__all__ = ["DDIM"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DDIM(Inversion):
    """Plain DDIM inversion; the source is denoised freely, as in the official code by default.

    Attributes:
        fresh_steps: how many of the cleanest levels are reached by adding noise instead.
    """

    fresh_steps: int = 0
    name: ClassVar[str] = "ddim"

    def __post_init__(self) -> None:
        settle(self)
        if self.fresh_steps < 0:
            raise ConfigError(f"fresh_steps={self.fresh_steps} was given; use 0 or more.")

    def passes(self, steps: int, branches: int) -> int:
        """One row per step and branch."""
        return max(steps - self.fresh_steps, 0) * branches

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        flow = task.schedule.kind == "flow"
        predict = task.source()
        up = corrected_up(task, known=False) if flow else _up(task, predict)
        return self.trajectory(
            task,
            climb(task, up, self.fresh_steps, visit=predict if self.replay else None),
            options=self.settings() | ({"seed": task.seed} if self.fresh_steps else {}),
        )


def _up(task: InversionTask, predict: Guided) -> Callable[[Tensor, int], Tensor]:
    """The step up of the head of this file."""
    schedule = task.schedule

    def up(z_next: Tensor, level: int) -> Tensor:
        eps = schedule.noise_in(predict(z_next, level), z_next, level)
        return step_up(z_next, eps, schedule.alpha_bar[level + 1], schedule.alpha_bar[level])

    return up
