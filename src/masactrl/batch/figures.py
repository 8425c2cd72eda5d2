"""Figures of a row: how well its source came back, how far its targets went."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from masactrl.runs.reconstruction import psnr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from masactrl.runs.edit_result import EditResult
    from masactrl.runs.result import GenerateResult

__all__ = ["FIGURES", "edit_figures", "generate_figures"]

FIGURES = {
    "source_psnr": "dB of the source that came back, to the picture that went in",
    "kept_psnr": "dB of the targets to the source: lower is changed more",
    "control_psnr": "dB of the targets to those without control: lower is controlled more",
}
"""What the figures are; means over the targets of a row, nothing where two are equal."""


def edit_figures(result: EditResult) -> dict[str, float | None]:
    """Return the figures of an edit."""
    twins = [one.uncontrolled for one in result.targets]
    return {
        "source_psnr": _finite(result.quality.psnr),
        **_of([one.controlled for one in result.targets], result.picture, twins),
    }


def generate_figures(result: GenerateResult) -> dict[str, float | None]:
    """Return the figures of pictures from prompts, whose source did not go in."""
    twins = [one.uncontrolled for one in result.targets]
    return _of([one.controlled for one in result.targets], result.source, twins)


def _of(
    targets: Sequence[Image.Image], source: Image.Image, twins: Sequence[Image.Image | None]
) -> dict[str, float | None]:
    pairs = [(one, twin) for one, twin in zip(targets, twins, strict=True) if twin is not None]
    return {
        "kept_psnr": _finite(sum(psnr(one, source) for one in targets) / len(targets)),
        "control_psnr": (
            _finite(sum(psnr(one, twin) for one, twin in pairs) / len(pairs)) if pairs else None
        ),
    }


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None
