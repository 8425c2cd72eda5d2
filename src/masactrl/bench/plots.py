"""Plots of the reports, through matplotlib's objects alone: no global state, no screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masactrl.bench.statistics import Estimate
from masactrl.errors import MissingExtra
from masactrl.pictures.files import written_whole

__all__ = ["Point", "preservation_plot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One method with its two figures."""

    label: str
    across: Estimate
    up: Estimate


def preservation_plot(
    points: Sequence[Point], path: Path, *, across: str, up: str, less_is_better: bool = False
) -> tuple[Path, ...]:
    """Preservation against edit, one dot a method with an ellipse of its 95 % intervals.

    Args:
        points: at least one.
        path: without ending; `.png` and `.svg` are written.
        across, up: what the axes show.
        less_is_better: of what goes across; the axis then runs the other way, so that the best
            is always at the upper right.

    Returns:
        both paths.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: they cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Ellipse
    except ImportError as error:
        raise MissingExtra("the benchmark's plot", "bench") from error
    figure = Figure(figsize=(7.5, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, point in enumerate(points):
        colour = f"C{number % 10}"
        x, y = point.across, point.up
        axes.add_patch(
            Ellipse(
                ((x.low + x.high) / 2, (y.low + y.high) / 2),
                max(x.high - x.low, 1e-6),
                max(y.high - y.low, 1e-6),
                color=colour,
                alpha=0.25,
            )
        )
        axes.plot([x.mean], [y.mean], "o", color=colour, label=point.label)
    axes.margins(0.12)
    axes.autoscale_view()
    if less_is_better:
        axes.invert_xaxis()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    paths = (path.with_suffix(".png"), path.with_suffix(".svg"))
    for one in paths:
        # No date inside: the same figures are the same file.
        kept = {"Date": None} if one.suffix == ".svg" else {}
        with written_whole(one) as beside:
            figure.savefig(beside, format=one.suffix[1:], metadata=kept)
    return paths
