"""`masactrl edit --auto`: who judges, and what choosing costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.models import LoadedModel
    from masactrl.runs.cost import EditPlan
    from masactrl.runs.invert import EditRequest, InversionRequest
    from masactrl.studies.scoring import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """The models that judge edits; None is what `masactrl.studies.scoring.load_scorer` takes."""

    clip: str | None = None
    dino: str | None = None

    def load(self, model: LoadedModel) -> Scorer:
        """Load them, for pictures of a model."""
        from masactrl.studies.scoring import load_scorer

        return load_scorer(model, clip=self.clip, dino=self.dino)


def judges_of(
    request: EditRequest, *, auto: bool, clip: str | None, dino: str | None
) -> Judges | None:
    """Return who is to judge; None without --auto.

    Raises:
        ConfigError: judges are named without --auto, or S, L or the joint mode are given with it.
    """
    if not auto:
        if clip is not None or dino is not None:
            raise ConfigError("--judge-clip and --judge-dino belong to --auto; add it.")
        return None
    from masactrl.studies.auto import check_open

    check_open(request)
    return Judges(clip=clip, dino=dino)


def choosing(
    model: LoadedModel,
    plan: Callable[[EditRequest], EditPlan],
    inversion: InversionRequest,
    request: EditRequest,
    *,
    auto: bool,
) -> tuple[int, int] | None:
    """Return rows and cells of choosing S and L; None without --auto."""
    if not auto:
        return None
    from masactrl.studies.auto import auto_axes, auto_rows

    axes = auto_axes(model, inversion.steps or model.preset.steps)
    return auto_rows(plan, request, axes)
