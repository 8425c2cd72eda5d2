"""`masactrl puppets measure real`: edits of drawn pictures after every inversion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.bench.statistics import Estimate
    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector


def measured_real(
    model: LoadedModel,
    inspector: Inspector,
    folder: Path,
    settings: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, float | None]], Image.Image | None]:
    """Measure, write the Markdown table, and return further facts, means and the sheet.

    `settings` are those of `RealSettings`, no inversions for all, `workers` and `on_progress`.
    """
    from masactrl.bench.real import RealSettings, measure_real, real_tasks
    from masactrl.bench.real_report import real_markdown, real_means, real_sheet
    from masactrl.inversion import inversions_of
    from masactrl.pictures.files import write_text

    known = {one.name for one in fields(RealSettings)}
    given = {name: value for name, value in settings.items() if name in known}
    given["inversions"] = tuple(given["inversions"] or inversions_of(model.kind))
    asked, own = RealSettings(**given), folder / "real"
    ledger = measure_real(
        model,
        inspector,
        asked,
        own,
        workers=settings["workers"],
        on_progress=settings["on_progress"],
    )
    tasks = real_tasks(asked.count, asked.seed)
    # The folder may hold more pictures than this run was asked for.
    keys = {task.key for task in tasks}
    rows = [row for row in ledger if row["task"] in keys]
    means = real_means(rows)
    facts = json.loads((own / "settings.json").read_text(encoding="utf-8"))
    text = real_markdown(means, {**facts, "count": asked.count})
    path = folder / "real.md"
    write_text(path, text)
    told = {
        "start_step": facts["start_step"],
        "start_layer": facts["start_layer"],
        "failed": sum("error" in row for row in rows),
        "intervals": {row: _intervals(figures) for row, figures in means.items()},
    }
    return told, _means(means), real_sheet(own, tasks, rows)


def _means(
    means: Mapping[str, Mapping[str, Estimate | None]],
) -> Mapping[str, Mapping[str, float | None]]:
    return {
        row: {name: None if one is None else one.mean for name, one in figures.items()}
        for row, figures in means.items()
    }


def _intervals(figures: Mapping[str, Estimate | None]) -> Mapping[str, list[float] | None]:
    return {name: None if one is None else [one.low, one.high] for name, one in figures.items()}
