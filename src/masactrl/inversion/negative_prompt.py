"""Negative-prompt inversion (Miyake et al., arXiv 2305.16807): null-text without optimising.

The optimised unconditional embedding of null-text inversion comes out close to the source prompt's
own. So the source prompt takes the place of "nothing" in guidance: in the source both branches are
then the same, any guidance leaves it where plain denoising would, and targets are led away from
what the picture shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from masactrl.errors import PromptError
from masactrl.inversion.ddim import DDIM
from masactrl.inversion.task import Inversion

if TYPE_CHECKING:
    from masactrl.diffusion import Trajectory
    from masactrl.inversion.task import InversionTask

__all__ = ["NegativePrompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativePrompt(Inversion):
    """DDIM inversion with the source prompt in both guidance branches; needs a source prompt."""

    name: ClassVar[str] = "negative-prompt"

    def passes(self, steps: int, branches: int) -> int:
        """One row per step: the branches are the same."""
        del branches
        return steps

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        if not task.prompt.strip():
            raise PromptError(
                "Negative-prompt inversion puts the source prompt in the place of nothing, and "
                "there is none; say what the picture shows, or use direct inversion."
            )
        found = DDIM()(replace(task, guidance=1.0))
        return replace(
            found,
            method=self.name,
            unconditional_prompt=task.prompt,
            guidance=task.guidance,
            options=self.settings(),
        )
