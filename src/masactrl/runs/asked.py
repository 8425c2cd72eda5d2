"""What is asked of a source, a prompt or a picture that is inverted, before a model is there.

Command line, studio and batch read their words into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from masactrl.models import LoadedModel
    from masactrl.runs.cost import EditPlan
    from masactrl.runs.edit_request import EditRequest
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.inversion_request import InversionRequest
    from masactrl.runs.request import GenerateRequest
    from masactrl.runs.session import EditSession

__all__ = ["Asked"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What is asked of a source, before a model is there.

    Attributes:
        request: a `GenerateRequest` of a prompt, an `EditRequest` of a picture.
        picture: the file that is inverted; None for a prompt.
        inversion: how it is inverted; None for a prompt.
    """

    request: GenerateRequest | EditRequest
    picture: Path | None = None
    inversion: InversionRequest | None = None

    @property
    def targets(self) -> int:
        """How many target prompts there are."""
        return len(self.request.target_prompts)

    def inversion_steps(self, model: LoadedModel) -> int:
        """Return the denoising steps before the first run; 0 for a prompt."""
        return 0 if self.inversion is None else self.inversion.steps or model.preset.steps

    def plan(self, model: LoadedModel, request: EditRequest, **how: Any) -> EditPlan:
        """Return what an edit of the picture would cost; see `masactrl.runs.invert.plan`."""
        from masactrl.runs.invert import plan

        if self.picture is None or self.inversion is None:
            raise ConfigError("The source is a prompt, and only edits of a picture are planned.")
        return plan(model, self.picture, self.inversion, request, **how)

    def open(
        self, model: LoadedModel, on_step: Callable[[StepRecord], None] | None = None
    ) -> LoadedModel | EditSession:
        """Return what runs it: the model, or what inverting the picture returns."""
        if self.picture is None or self.inversion is None:
            return model
        from masactrl.runs.invert import invert

        return invert(model, self.picture, self.inversion, on_step=on_step)
