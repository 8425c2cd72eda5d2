"""What `masactrl.bench.real` measured, as a table and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from masactrl.bench.real_tasks import picture_path
from masactrl.bench.statistics import Estimate, bootstrap
from masactrl.inversion import INVERSIONS
from masactrl.pictures.images import Tile, contact_sheet

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.bench.real_tasks import RealTask

__all__ = ["FIGURES", "real_markdown", "real_means", "real_sheet"]

FIGURES = (
    ("reconstruction", "reconstruction dB", 1.0, 1),
    ("ceiling", "VAE alone dB", 1.0, 1),
    ("action", "right action %", 100.0, 1),
    ("species", "right species %", 100.0, 1),
    ("identity", "identity error", 1.0, 1),
    ("pattern", "other pattern %", 100.0, 1),
    ("background", "background dB", 1.0, 1),
    ("seconds", "seconds", 1.0, 2),
    ("passes", "passes", 1.0, 0),
)
"""Figures of a row: name, heading, what they are multiplied by in tables, digits after the dot."""

Means = Mapping[str, Mapping[str, Estimate | None]]


def real_means(rows: Iterable[Mapping[str, Any]]) -> Means:
    """Means over pictures with their 95 % intervals, by row and figure; None where there is none.

    Rows are in the order in which they appear; pictures on which a row failed are left out of it.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    for row in rows:
        figures = found.setdefault(row["row"], {name: [] for name, *_ in FIGURES})
        for name, values in figures.items():
            value = row["figures"][name] if "figures" in row else None
            if value is not None:
                values.append([value])
    return {
        row: {name: bootstrap(values) for name, values in figures.items()}
        for row, figures in found.items()
    }


def real_markdown(means: Means, facts: Mapping[str, Any]) -> str:
    """The table in Markdown, with what was run above it."""
    headings = ["", *(heading for _, heading, _, _ in FIGURES), "pictures"]
    lines = [
        "# Edits of real pictures after each inversion",
        "",
        f"{facts['count']} drawn pictures that were never trained on, edited to another action by "
        f"{facts['model']}: {facts['steps']} steps, guidance {facts['guidance']:g}, "
        f"S={facts['start_step']}, L={facts['start_layer']}. Means with 95 % bootstrap intervals.",
        "",
        "Identity error: distance of the colours that both animals show (CIELAB), 10 more for "
        "another pattern. Background: PSNR against the source outside the exact masks of source "
        "and of the right answer. Passes: rows through the U-Net, inversion and source included.",
        "",
        "| " + " | ".join(headings) + " |",
        "| --- |" + " ---: |" * (len(headings) - 1),
    ]
    for row, figures in means.items():
        cells = [_cell(figures[name], factor, digits) for name, _, factor, digits in FIGURES]
        judged = figures["action"]
        lines.append(
            f"| {_label(row)} | {' | '.join(cells)} | {0 if judged is None else judged.count} |"
        )
    return "\n".join(lines) + "\n"


def real_sheet(
    folder: Path, tasks: Sequence[RealTask], rows: Sequence[Mapping[str, Any]]
) -> Image.Image | None:
    """One line of kept pictures a scene: a column per row of the table; None where none was kept.

    Captions say what the edit was to show, and whether the inspector sees it.
    """
    names = list(dict.fromkeys(row["row"] for row in rows))
    figures = {(row["task"], row["row"]): row.get("figures") for row in rows}
    lines = []
    for task in tasks:
        tiles = []
        for name in names:
            path = picture_path(folder, task.key, name)
            if not path.exists():
                tiles.append(Tile(image=None))
                continue
            with Image.open(path) as picture:
                copy = picture.convert("RGB")
            tiles.append(Tile(image=copy, caption=_caption(task, name, figures)))
        if any(tile.image is not None for tile in tiles):
            lines.append(tiles)
    return contact_sheet(lines, headers=[_label(name) for name in names]) if lines else None


def _caption(
    task: RealTask, name: str, figures: Mapping[tuple[str, str], Mapping[str, Any] | None]
) -> str:
    if name == "doing nothing":
        return task.source_prompt
    seen = figures.get((task.key, name))
    if seen is None:
        return task.target.pose.action
    right = "right" if seen["action"] else "wrong"
    return f"{task.target.pose.action}: {right}, identity {seen['identity']:.0f}"


def _label(row: str) -> str:
    """A row's name, with whether its source is replayed."""
    name, _, options = row.partition(":")
    inversion = name.partition("+")[0]
    if inversion not in INVERSIONS:
        return row
    said = f"{name} ({options})" if options else name
    return f"{said}, replay" if INVERSIONS[inversion]().replay else said


def _cell(estimate: Estimate | None, factor: float, digits: int) -> str:
    if estimate is None:
        return "-"
    mean, low, high = (factor * v for v in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
