"""PuppetBench's report: a table with intervals, the plot, and sheets of pictures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from masactrl.bench.plots import Point, preservation_plot
from masactrl.bench.puppet_figures import BOUNDS, JOINTS
from masactrl.bench.puppet_settings import picture_path
from masactrl.bench.puppet_tasks import LAYOUT
from masactrl.bench.statistics import Estimate, bootstrap
from masactrl.errors import MasaCtrlError
from masactrl.pictures.files import write_text
from masactrl.pictures.images import Tile, contact_sheet, save_png

__all__ = ["SHOWN", "ColumnSummary", "summarise", "write_report"]

SHOWN = (
    ("passed", "pass rate", 100.0),
    ("asked", "edit right", 100.0),
    ("identity", "identity error", 1.0),
    ("named", "by named colours", 1.0),
    ("pattern", "same pattern", 100.0),
    ("collar", "same collar", 100.0),
    ("background", "background dB", 1.0),
    ("similarity", "background SSIM", 1.0),
    ("overlap", "pose IoU", 1.0),
    ("distance", "distance to right answer", 1.0),
    ("joints", "joints in place", 100.0),
)
"""Figures in the table: name, heading, and what they are multiplied by; joints where any has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSummary:
    """One column over all its items; `figures` by name, None where none had the figure."""

    column: str
    items: int
    failed: int
    seconds: float
    figures: dict[str, Estimate | None]


def summarise(rows: Iterable[dict[str, Any]]) -> tuple[ColumnSummary, ...]:
    """Means with bootstrap intervals over tasks, one summary a column, in order of appearance."""
    by_column: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_column.setdefault(row["column"], []).append(row)
    found = []
    for column, members in by_column.items():
        good = [row for row in members if "error" not in row]
        figures: dict[str, Estimate | None] = {}
        for name, _, _ in SHOWN:
            tasks: dict[str, list[float]] = {}
            for row in good:
                value = row["figures"].get(name)  # earlier releases had fewer
                if value is not None:
                    tasks.setdefault(row["task"], []).append(value)
            figures[name] = bootstrap(list(tasks.values()))
        seconds = sum(row["seconds"] for row in good) / max(1, len(good))
        found.append(
            ColumnSummary(
                column=column,
                items=len(good),
                failed=len(members) - len(good),
                seconds=seconds,
                figures=figures,
            )
        )
    return tuple(found)


def write_report(rows: Sequence[dict[str, Any]], folder: Path, *, title: str) -> tuple[Path, ...]:
    """Write the report as Markdown and HTML with its plot and its sheet; return the paths.

    The files are `report.md`, `report.html`, `preservation.png` and `.svg`, and where pictures were
    kept `sheet.png` of synthesised and `sheet-rendered.png` of rendered sources.

    Raises:
        MasaCtrlError: there is no finished item.
        MissingExtra: matplotlib is not installed.
    """
    summaries = summarise(rows)
    if not any(one.items for one in summaries):
        raise MasaCtrlError("No item of this run is finished, so there is nothing to report.")
    kinds = sorted({row["kind"] for row in rows if "kind" in row})
    halves = sorted({row["half"] for row in rows if "half" in row}, reverse=True)
    sections = [("All tasks", summaries)]
    sections += [
        (f"Sources {half}", summarise([row for row in rows if row.get("half") == half]))
        for half in halves
        if len(halves) > 1
    ]
    sections += [
        (f"Only: {kind}", summarise([row for row in rows if row.get("kind") == kind]))
        for kind in kinds
        if len(kinds) > 1
    ]
    paths = [
        *_plot(summaries, folder),
        *(path for half in halves for path in _sheet(rows, half, folder)),
    ]
    pictures = [path.name for path in paths if path.suffix == ".png"]
    markdown, page = folder / "report.md", folder / "report.html"
    for path, text in ((markdown, _markdown), (page, _html)):
        write_text(path, text(title, _notes(kinds), sections, pictures))
    return (markdown, page, *paths)


def _table(summaries: Sequence[ColumnSummary]) -> list[list[str]]:
    """Headings, then the cells of every column of the benchmark."""
    posed = any(one.figures["joints"] is not None for one in summaries)
    shown = SHOWN if posed else tuple(one for one in SHOWN if one[0] != "joints")
    headings = ["method", *(heading for _, heading, _ in shown), "seconds", "pictures"]
    return [headings, *(_cells(one, shown) for one in summaries)]


def _cells(one: ColumnSummary, shown: Sequence[tuple[str, str, float]]) -> list[str]:
    cells = [one.column]
    for name, _, factor in shown:
        estimate = one.figures[name]
        if estimate is None:
            cells.append("-")
            continue
        digits = 3 if name in ("similarity", "overlap", "distance") else 1
        mean, low, high = (factor * v for v in (estimate.mean, estimate.low, estimate.high))
        cells.append(f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
    failed = f", {one.failed} failed" if one.failed else ""
    return [*cells, f"{one.seconds:.2f}", f"{one.items}{failed}"]


def _notes(kinds: Sequence[str]) -> list[str]:
    posed = (
        f"Tasks of the kind layout ask for a pose: at least {100 * JOINTS:g} % of its joints "
        "within 5 % of the height of their places. All but nothing, right answer and columns "
        "without layout are led by its skeleton."
    )
    return [
        *([posed] if LAYOUT in kinds else []),
        "Means with 95 % bootstrap intervals over tasks. Shares in per cent. Identity error: "
        "distance of the colours that both animals show (CIELAB), 10 more for another pattern. By "
        "named colours: the figure of earlier releases, coat against coat and accent against "
        "accent, 25 more for another pattern.",
        f"A picture passes when it shows what was asked, the same species, an identity "
        f"error of at most {BOUNDS.identity:g}, a background of at least {BOUNDS.background:g} dB "
        f"and a pose overlap of at least {BOUNDS.overlap:g}.",
        "Doing nothing preserves best and the prompt alone follows best: neither figure alone says "
        "that a method is good.",
    ]


def _markdown(
    title: str,
    notes: Sequence[str],
    sections: Sequence[tuple[str, Sequence[ColumnSummary]]],
    pictures: Sequence[str],
) -> str:
    lines = [f"# {title}", "", *(f"{note}\n" for note in notes)]
    for heading, summaries in sections:
        first, *cells = _table(summaries)
        lines += [f"## {heading}", "", "| " + " | ".join(first) + " |"]
        lines.append("|" + " --- |" * len(first))
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        lines.append("")
    lines += [f"![{name}]({name})\n" for name in pictures]
    return "\n".join(lines) + "\n"


def _html(
    title: str,
    notes: Sequence[str],
    sections: Sequence[tuple[str, Sequence[ColumnSummary]]],
    pictures: Sequence[str],
) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title>",
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:90rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3rem .6rem;"
        "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
    ]
    for heading, summaries in sections:
        first, *cells = _table(summaries)
        body = "".join(row(one, "td") for one in cells)
        parts.append(f"<h2>{html.escape(heading)}</h2><table>{row(first, 'th')}{body}</table>")
    parts += [
        f"<p><img src='{html.escape(name)}' alt='{html.escape(name)}'></p>" for name in pictures
    ]
    return "\n".join(parts) + "</html>\n"


def _plot(summaries: Sequence[ColumnSummary], folder: Path) -> list[Path]:
    points = []
    for one in summaries:
        lost, edited = one.figures["identity"], one.figures["asked"]
        if lost is not None and edited is not None:
            points.append(Point(label=one.column, across=lost, up=edited))
    if not points:
        return []
    return list(
        preservation_plot(
            points,
            folder / "preservation",
            across="subject kept: identity error, 0 is the source's",
            up="edit right, share",
            less_is_better=True,
        )
    )


def _sheet(rows: Sequence[dict[str, Any]], half: str, folder: Path) -> list[Path]:
    """One row of pictures a task of a half whose pictures were kept; a gap where one failed."""
    tasks = {row["task"] for row in rows if row.get("half") == half}
    own = [row for row in rows if row["task"] in tasks]
    columns = dict.fromkeys(row["column"] for row in own if row["column"] != "nothing")
    posed = any(row.get("kind") == LAYOUT for row in own)
    labels = ["source", *(["layout"] if posed else []), *columns]
    figures = {(row["task"], row["seed"], row["column"]): row.get("figures") for row in own}
    lines = []
    for task, seed in dict.fromkeys((row["task"], row["seed"]) for row in own):
        places = [picture_path(folder, task, seed, label) for label in labels]
        if places[0].exists():
            captions = [_caption(figures.get((task, seed, label)), task) for label in labels]
            lines.append([_tile(*one) for one in zip(places, captions, strict=True)])
    if not lines:
        return []
    path = folder / ("sheet.png" if half == "synthesised" else f"sheet-{half}.png")
    save_png(path, contact_sheet(lines, headers=labels))
    return [path]


def _tile(path: Path, caption: str) -> Tile:
    if not path.exists():
        return Tile(image=None, caption=caption)
    with Image.open(path) as image:
        return Tile(image=image.copy(), caption=caption)


def _caption(figures: dict[str, Any] | None, task: str) -> str:
    if figures is None:
        return task
    right = "right" if figures["asked"] else "wrong"
    return f"{right}, identity {figures['identity']:.0f}{', passed' if figures['passed'] else ''}"
