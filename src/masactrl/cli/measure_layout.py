"""`masactrl puppets measure layout` and `animation`: layouts, with the right answers known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel

    Measured = tuple[
        Mapping[str, Any], Mapping[str, Mapping[str, float | None]], Image.Image | None
    ]


RIVALS = ("prompt-to-prompt", "plug-and-play")
"""Methods that are given the layout, too, where none are named."""

_TOLD = ("overlap", "joints", "identity", "background", "passed")  # on the terminal


def measured_layouts(
    model: LoadedModel,
    start_steps: Sequence[int],
    start_layers: Sequence[int],
    methods: Sequence[str],
    folder: Path,
    settings: Mapping[str, Any],
) -> Measured:
    """Measure, and return further facts and the means; PuppetBench's report is in the folder.

    Its tasks of the kind layout, from prompts: MasaCtrl with every S and L (none are the model's),
    the first of them and the fixed seed without the layout, and other methods with it, none for
    `RIVALS`.
    """
    from masactrl.bench.puppet_report import SHOWN, summarise, write_report
    from masactrl.bench.puppet_run import Column, PuppetSettings, run_puppets
    from masactrl.bench.puppet_tasks import LAYOUT, puppet_tasks
    from masactrl.puppets.inspector import Inspector

    axes = (("start_step", start_steps), ("start_layer", start_layers))
    given = [[(name, one) for one in values] for name, values in axes if values]
    starts = [dict(cell) for cell in product(*given)]
    asked = PuppetSettings(
        columns=(
            *(Column(method="masactrl", options=one) for one in starts),
            Column(method="masactrl", options=starts[0], layout=False),
            Column(method="fixed-seed", layout=False),
            *map(Column.written, methods or RIVALS),
        ),
        steps=settings["steps"],
        guidance=settings["guidance"],
        batch=max(1, settings["batch"] // 2),  # a source and a target each
        seeds=1,
    )
    tasks = puppet_tasks("reporting", "synthesised", limit=settings["count"], kinds=[LAYOUT])
    own = folder / "layout"
    ledger = run_puppets(
        model,
        Inspector.load(device=model.pipeline.device),
        tasks,
        asked,
        own,
        workers=settings["workers"],
        on_progress=settings["on_progress"],
    )
    keys = {task.key for task in tasks}  # the folder may hold more than was asked for
    rows = [row for row in ledger if row["task"] in keys]
    title = f"Layouts, {len(tasks)} tasks, {asked.steps} steps, {model.dtype}"
    write_report(rows, own, title=title)
    means = {
        one.column: {
            heading: None if (figure := one.figures[name]) is None else factor * figure.mean
            for name, heading, factor in SHOWN
            if name in _TOLD
        }
        for one in summarise(rows)
    }
    facts = {
        "count": len(tasks),
        "dtype": model.dtype,
        "failed": sum("error" in row for row in rows),
    }
    return facts, means, None


def measured_animations(
    model: LoadedModel, start_step: int, start_layer: int, settings: Mapping[str, Any]
) -> Measured:
    """Measure, and return further facts, the means and a sheet of the first clip, row by row."""
    from masactrl.bench.model_measure_animation import measure_animations
    from masactrl.pictures.images import Tile, contact_sheet
    from masactrl.puppets.inspector import Inspector

    found = measure_animations(
        model, Inspector.load(), start_step=start_step, start_layer=start_layer, **settings
    )
    source, columns = found.samples
    rows = [
        [Tile(image=source), *(Tile(image=one) for one in frames[:8])]
        for frames in columns.values()
    ]
    facts = {"S": start_step, "L": start_layer, "frames": settings["frames"]}
    return {**facts, "dtype": model.dtype}, found.rows, contact_sheet(rows)
