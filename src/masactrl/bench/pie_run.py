"""PIE-Bench's run: every picture by an editor, kept, scored and written down; goes on after a stop.

out/<label>/annotation_images/...    edited pictures, under the sources' paths
out/items.jsonl                      one line an item and label
out/items.csv                        the same as a table
out/table.md                         means per label and type, published rows beside
out/preservation.png, .svg           the edit against what was kept, a dot a label
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from masactrl.batch.ledger import ITEMS, Ledger
from masactrl.batch.pie_data import IMAGES, SIDE, PieData, PieItem, PieProblem
from masactrl.batch.processes import in_parallel
from masactrl.bench.pie_metrics import METRICS, PieMetrics
from masactrl.bench.pie_table import TableRow, summarise_pie, table_text
from masactrl.bench.plots import Point, preservation_plot
from masactrl.bench.statistics import bootstrap
from masactrl.errors import MasaCtrlError, MissingExtra, OutputError
from masactrl.pictures.files import written_whole
from masactrl.pictures.images import DAMAGED

__all__ = ["Editor", "PieOutcome", "Scored", "cropped", "run_pie"]

Editor = Callable[[PieItem, Image.Image], Image.Image]
"""`editor(item, source)` returns the edited picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieOutcome:
    """What became of a run: how many items are done, what went wrong, and the table.

    `plots` are empty where matplotlib is not installed, or nothing can be shown.
    """

    done: int
    problems: tuple[PieProblem, ...]
    table: tuple[TableRow, ...]
    table_path: Path
    csv_path: Path
    plots: tuple[Path, ...] = ()


def run_pie(
    data: PieData,
    editors: Mapping[str, Editor],
    metrics: PieMetrics,
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> PieOutcome:
    """Edit and score every item with every editor.

    Pictures that are there are not made again, and rows that are written are not scored again.
    A row that fails is written with its reason and tried again by the next run.

    Args:
        data: what `read_pie` returns; its problems are passed on.
        editors: by label.
        metrics: the measuring networks.
        out: folder of the run.
        settings: facts that all runs in this folder must share.
        workers: processes, see `in_parallel`.
        on_progress: called with (items done, all of them).

    Raises:
        ConfigError: the folder holds a run with other settings, another run is at work in it, or
            there is no worker.
        OutputError: it cannot be written to.
    """
    facts = {"benchmark": "pie-1", **(settings or {})}
    problems = list(data.problems)
    pairs = [(item, label) for item in data.items for label in editors]
    with Ledger.alone(out / ITEMS, ("key", "label"), facts) as ledger:
        todo = [pair for pair in pairs if not ledger.done(pair[0].key, pair[1])]
        count = len(pairs) - len(todo)
        bench = _Bench(data=data, editors=editors, metrics=metrics, out=out)
        for (item, label), row in in_parallel(bench, todo, workers, lost=_lost):
            ledger.add(row)
            if "error" in row:
                problems.append(PieProblem(key=item.key, reason=f"{label}: {row['error']}"))
            count += 1
            if on_progress is not None:
                on_progress(count, len(pairs))
    # In the order of the data: workers finish in any.
    found = [ledger.get(item.key, label) for item, label in pairs]
    rows = [row for row in found if row is not None]
    table = summarise_pie(rows, METRICS)
    table_path, csv_path = out / "table.md", out / "items.csv"
    try:
        table_path.write_text(table_text(table), encoding="utf-8")
        _write_csv(csv_path, rows)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}.") from error
    return PieOutcome(
        done=sum("error" not in row for row in rows),
        problems=tuple(problems),
        table=table,
        table_path=table_path,
        csv_path=csv_path,
        plots=_plots(rows, out),
    )


def _plots(rows: Sequence[Mapping[str, Any]], out: Path) -> tuple[Path, ...]:
    """The edit (CLIP) against what was kept (SSIM, which doing nothing has a finite one of)."""
    points = []
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row["figures"] for row in rows if row["label"] == label and "error" not in row]
        kept, edited = (
            bootstrap([[figures[name]] for figures in own if figures[name] is not None])
            for name in ("ssim_unedit_part", "clip_similarity_target_image")
        )
        if kept is not None and edited is not None:
            points.append(Point(label=label, across=kept, up=edited))
    if not points:
        return ()
    try:
        return preservation_plot(
            points,
            out / "preservation",
            across="background kept, SSIM outside the mask",
            up="edit done, CLIP similarity to the target prompt",
        )
    except MissingExtra:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """Edits and scores one item by one editor; a value that other processes can have."""

    data: PieData
    editors: Mapping[str, Editor]
    metrics: PieMetrics
    out: Path

    def __call__(self, job: tuple[PieItem, str]) -> dict[str, Any]:
        """The row of one item: its figures, or why there are none."""
        item, label = job
        path = self.out / label / IMAGES / item.image_path
        try:
            source = self.data.picture(item)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                # Under the source's own name and format: the published pictures were JPEGs, too.
                edited = self.editors[label](item, source).convert("RGB")
                with written_whole(path) as beside:
                    edited.save(beside)
            with Image.open(path) as image:
                edited = cropped(image.convert("RGB"))
            figures = self.metrics.measure(
                source,
                edited,
                item.mask,
                source_prompt=item.source_prompt,
                target_prompt=item.target_prompt,
            )
        except (MasaCtrlError, *DAMAGED) as error:
            return _lost(job, str(error) or type(error).__name__)
        return {**_named(job), "figures": {name: _json(one) for name, one in figures.items()}}


def _named(job: tuple[PieItem, str]) -> dict[str, Any]:
    item, label = job
    return {"key": item.key, "label": label, "type": item.type_id}


def _lost(job: tuple[PieItem, str], reason: str) -> dict[str, Any]:
    return {**_named(job), "error": reason}


def _json(value: float) -> float | str | None:
    """JSON has neither NaN (no value) nor infinity (the PSNR of equal pictures)."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def cropped(image: Image.Image) -> Image.Image:
    """The last 512 x 512 of a picture that is not square: methods save strips, the edit last.

    Raises:
        MasaCtrlError: the picture, or what is left of it, is not of 512 x 512.
    """
    width, height = image.size
    if width != height:
        image = image.crop((width - SIDE, height - SIDE, width, height))
    if image.size != (SIDE, SIDE) or min(width, height) < SIDE:
        raise MasaCtrlError(
            f"an edited picture of {width} x {height} was found; {SIDE} x {SIDE} is needed"
        )
    return image


@dataclass(frozen=True, slots=True)
class Scored:
    """An editor that takes pictures which somebody else's method has made, by their paths."""

    folder: Path

    def __call__(self, item: PieItem, _source: Image.Image) -> Image.Image:
        """Return the picture of an item; `MasaCtrlError` where there is none."""
        path = self.folder / item.image_path
        if not path.exists():
            raise MasaCtrlError(f"the picture {item.image_path} is missing in {self.folder}")
        with Image.open(path) as image:
            return cropped(image.convert("RGB"))


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line an item and label; "nan" where a figure has no value, as published."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_id", "label", "editing_type_id", *METRICS, "error"])
        for row in rows:
            figures = row.get("figures", {})
            cells = ["nan" if figures.get(m) is None else figures[m] for m in METRICS]
            writer.writerow([row["key"], row["label"], row["type"], *cells, row.get("error", "")])
