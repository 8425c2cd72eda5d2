"""`masactrl demo`: the embedded model shows in a minute what the control does."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from masactrl.cli.console import finishing, interrupted, output, progress, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import Output
from masactrl.pictures.images import save_png
from masactrl.runs.generate import generate
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.recipe import PARAMETERS_KEY, parameters_text
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import HEADERS, GenerateResult, prepare_folder, write_pictures
from masactrl.studies.compare_figures import ComparisonFigures, read_figures

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = (
    ("a cat standing in the meadow, facing left", "a cat running in the meadow, facing left", 28),
    ("a dog sitting on the beach, facing right", "a dog jumping on the beach, facing right", 11),
    ("a horse standing in the snow, facing left", "a horse rearing in the snow, facing left", 27),
    ("a fox running in the forest, facing right", "a fox sitting in the forest, facing right", 5),
    ("a rabbit sitting in the city, facing left", "a rabbit lying in the city, facing left", 2),
)
"""Source prompt, target prompt and seed of each row."""

SHEET = "demo"
KINDS = ("source", "uncontrolled", "controlled")
"""Of the pictures of a row, in the order of the sheet's columns."""


@takes(
    Output,
    only(GenerateRequest, "steps"),
    only(ModelSpec, "device"),
)
def demo(given: Given) -> None:
    """Make consistent pictures with the embedded model, in about a minute on two CPU cores.

    Fewer --steps are quicker and rougher.

    Each row shows a source, then another action of the same animal from the same start noise:
    first without control, which draws another animal, then with mutual self-attention.

    Ctrl-C finishes the row at hand and keeps what is done; a second Ctrl-C stops at once.

    Example: masactrl demo -o out
    """
    names = [f"row{row}-{kind}" for row in range(1, len(ROWS) + 1) for kind in KINDS]
    written = given.build(Output)
    prepare_folder(written.out, [*names, SHEET], overwrite=written.overwrite)
    started = time.perf_counter()
    with quiet_libraries():
        model = given.build(ModelSpec).load()
        rows = [
            given.build(GenerateRequest, source_prompt=source, target_prompts=(target,), seed=seed)
            for source, target, seed in ROWS
        ]
        errors, total = Console(stderr=True), len(rows) * (rows[0].steps or model.preset.steps)
        results: list[GenerateResult] = []
        with finishing(errors) as stopping, progress(errors, "Drawing", total) as on_step:
            for asked in rows:
                results.append(generate(model, asked, on_step=on_step))
                if stopped := stopping():
                    break
    names = names[: len(results) * len(KINDS)]
    _save(results, names, written.out, metadata=written.metadata)
    figures = _read(results)
    seconds = time.perf_counter() - started
    if written.as_json:
        typer.echo(json.dumps(_described(results, names, figures, written.out, seconds), indent=2))
    else:
        _report(results, figures, written.out, seconds)
    if stopped:
        interrupted(f"{len(results)} of {len(ROWS)} rows are done")


def _save(
    results: Sequence[GenerateResult], names: Sequence[str], out: Path, *, metadata: bool
) -> None:
    """Write every picture with the recipe of its run, and the sheet of all runs with all theirs."""
    from masactrl.rerun.kinds import demo_sheet

    left = iter(names)
    for result in results:
        prompts = result.prompts()
        for own, picture in result.pictures().items():
            recipe = result.recipe(own)
            text = {PARAMETERS_KEY: parameters_text(recipe, prompts[own])}
            save_png(
                out / f"{next(left)}.png",
                picture,
                recipe.to_json() if metadata else None,
                text=text if metadata else None,
            )
    rows = {"rows": [result.request.recipe() for result in results]}
    recipe = replace(results[0].recipe(SHEET), kind="demo", request=rows)
    write_pictures(out, {SHEET: demo_sheet(results)}, recipe if metadata else None)


def _read(results: Sequence[GenerateResult]) -> tuple[ComparisonFigures, ...] | None:
    """Return what the embedded inspector reads, row by row; None when there is no inspector."""
    found: list[ComparisonFigures] = []
    for result in results:
        read = read_figures(list(result.pictures().values()), result.targets[0].prompt)
        if read is None:
            return None
        found += read
    return tuple(found)


def _described(
    results: Sequence[GenerateResult],
    names: Sequence[str],
    figures: Sequence[ComparisonFigures] | None,
    out: Path,
    seconds: float,
) -> dict[str, object]:
    """Return the demo as values that JSON knows."""
    read = [None] * len(names) if figures is None else [asdict(one) for one in figures]
    return {
        "seconds": round(seconds, 3),
        "sheet": str(out / f"{SHEET}.png"),
        "rows": [result.request.recipe() for result in results],
        "pictures": {
            name: {"path": str(out / f"{name}.png"), "inspector": one}
            for name, one in zip(names, read, strict=True)
        },
    }


def _report(
    results: Sequence[GenerateResult],
    figures: Sequence[ComparisonFigures] | None,
    out: Path,
    seconds: float,
) -> None:
    """Print one line per picture, then where everything is."""
    from masactrl.puppets.identity import SAME

    table = Table(title="The same animal, doing something else")
    for heading in ("row", "picture", "the inspector sees"):
        table.add_column(heading)
    table.add_column("identity error", justify="right")
    table.add_column("seconds", justify="right")
    for row, result in enumerate(results, start=1):
        for column, kind in enumerate(HEADERS):
            read = None if figures is None else figures[(row - 1) * len(KINDS) + column]
            table.add_row(
                str(row) if column == 0 else "",
                kind,
                "-" if read is None else read.seen,
                "-" if read is None or column == 0 else f"{read.identity_error:.1f}",
                f"{result.seconds:.1f}" if column == 0 else "",
                end_section=column == len(KINDS) - 1,
            )
    console = output()
    console.print(table)
    if figures is None:
        console.print("This installation has no inspector, so nothing was read in the pictures.")
    else:
        errors = [figure.identity_error for figure in figures]
        plain, controlled = (fmean(errors[column :: len(KINDS)]) for column in (1, 2))
        console.print(
            "Identity error: colours and pattern against the row's source; 0 is the same animal, "
            f"and up to {SAME:g} it looks like it. Mean: {plain:.1f} without control, "
            f"{controlled:.1f} with MasaCtrl.",
            highlight=False,
        )
    console.print(
        f"{len(results) * len(KINDS)} pictures in {seconds:.0f} s, side by side in "
        f"{out / SHEET}.png",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    source, _, seed = ROWS[0]
    target = source.replace(" standing", "", 1)
    console.print(
        f'Poses that no words say: masactrl animate "{source}" --to "{target}" --poses run '
        f"--seed {seed}; of your own pictures: masactrl generate --layout pose=FILE.",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
