"""`masactrl puppets measure`: figures of a model of the puppet world, with the inspector as judge.

Import torch and what needs it inside the command, so that `masactrl --help` stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.measure_layout import RIVALS, measured_animations, measured_layouts
from masactrl.cli.measure_real import measured_real
from masactrl.cli.options import WorkersOption
from masactrl.cli.output import Output
from masactrl.pictures.files import write_text
from masactrl.runs.model_spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.measured import EditSide

Rows = Mapping[str, Mapping[str, float | None]]


class What(StrEnum):
    """What `measure` measures."""

    PROMPTS = "prompts"
    EDITS = "edits"
    GRID = "grid"
    FORMS = "forms"
    LAYOUT = "layout"
    ANIMATION = "animation"
    REAL = "real"
    IDENTITY = "identity"


SeedOption = Annotated[int, typer.Option(help="Seed, 0 or more; the same seed, the same result.")]
StepsOption = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")]
CountOption = Annotated[int, typer.Option(min=1, help="Pictures, or pairs of pictures.")]


@takes(only(ModelSpec, "model", "device", "dtype"), only(Output, "as_json"))
def measure(
    given: Given,
    what: Annotated[
        What,
        typer.Argument(
            help="prompts: does a picture show what its prompt says; edits: does control keep the "
            "animal and let it act; grid: edits for every S and L; forms: replace, union and the "
            "masked forms where coat and background look alike; layout: poses that no words say, "
            "put by skeletons, PuppetBench's tasks of that kind; animation: gaits, frame by "
            "frame; real: edits of drawn pictures after every inversion; identity: what the "
            "identity error is of drawn pairs."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for table and pictures.")],
    count: CountOption = 200,
    steps: StepsOption = 20,
    cfg: Annotated[
        float | None,
        typer.Option(min=1, help="Guidance scale; 1 is off.", show_default="the model's"),
    ] = None,
    start_step: Annotated[
        list[int] | None,
        typer.Option(help="S; repeat it for the grid.", show_default="the model's"),
    ] = None,
    start_layer: Annotated[
        list[int] | None,
        typer.Option(help="L; repeat it for the grid.", show_default="the model's"),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.001, max=1, help="Of automatic masks, for forms.")
    ] = 0.1,
    capture_scale: Annotated[
        int,
        typer.Option(
            min=1, help="How much smaller than the latent the maps of words are, for forms."
        ),
    ] = 4,
    spare: Annotated[
        bool,
        typer.Option(
            "--spare/--full",
            help="Target prompts leave place and facing out, for edits and grid; what they do not "
            "say, S and L decide.",
        ),
    ] = False,
    inversion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[+METHOD][:OPTION=NUMBER,...]",
            help="An inversion such as direct:fresh_steps=3 or virtual+unified:steps=8, for real; "
            "away=1.5 guides away from what the picture shows. Repeat it.",
            show_default="all",
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Scenes that are shown in the sheet, for real.")
    ] = 8,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures made at once; for real always one.")
    ] = 24,
    frames: Annotated[int, typer.Option(min=2, help="Of a clip, for animation.")] = 24,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:OPTION=VALUE,...]",
            help="Another method that is given the layout, for layout; repeat it.",
            show_default=", ".join(RIVALS),
        ),
    ] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
) -> None:
    """Measure a model of the puppet world with the inspector as judge.

    Example: masactrl puppets measure edits --count 50 -o measured
    """
    from masactrl.runs.result import prepare_folder

    as_json = given.build(Output).as_json
    prepare_folder(out, [what.value], overwrite=True)
    if what is What.IDENTITY:
        _truth(out, as_json=as_json)
        return
    with quiet_libraries():
        from masactrl.puppets.inspector import Inspector

        loaded = given.build(ModelSpec).load()
        preset = loaded.preset
        settings: dict[str, Any] = {
            "steps": steps,
            "guidance": preset.guidance_scale if cfg is None else cfg,
            "batch": batch,
            "seed": seed,
            "on_progress": _progress(what.value),
        }
        s, layers = start_step or [preset.start_step_of(steps)], start_layer or [preset.start_layer]
        if spare and what not in (What.EDITS, What.GRID):
            raise typer.BadParameter(f"{what.value} has no spare prompts; leave --spare out.")
        if workers != 1 and what not in (What.REAL, What.LAYOUT):
            raise typer.BadParameter(f"{what.value} is one process; leave --workers out.")
        if method and what is not What.LAYOUT:
            raise typer.BadParameter(f"{what.value} compares no methods; leave --method out.")
        if seed and what is What.LAYOUT:
            raise typer.BadParameter("layout has fixed tasks and noises; leave --seed out.")
        if what is What.REAL:
            settings |= {"start_step": s[0] if start_step else None, "start_layer": layers[0]}
            settings |= {"pictures": pictures, "count": count, "inversions": inversion or ()}
            settings["workers"] = workers
            facts, rows, sheet = measured_real(loaded, Inspector.load(), out, settings)
        elif what is What.LAYOUT:
            settings |= {"count": count, "workers": workers}
            facts, rows, sheet = measured_layouts(
                loaded, start_step or (), start_layer or (), method or (), out, settings
            )
        elif what is What.ANIMATION:
            facts, rows, sheet = measured_animations(
                loaded, s[0], layers[0], {"count": count, "frames": frames, **settings}
            )
        else:
            if what in (What.EDITS, What.GRID):
                settings["spare"] = spare
            masks = {"threshold": threshold, "capture_scale": capture_scale}
            facts, rows, sheet = _measured(
                what, loaded.pipeline, Inspector.load(), count, s, layers, masks, settings
            )
    if sheet is not None:
        save_picture(out / f"{what.value}.png", sheet)
    common = {"model": loaded.name, "count": count, "steps": steps}
    text = json.dumps({**common, "guidance": settings["guidance"], **facts, "rows": rows}, indent=2)
    write_text(out / f"{what.value}.json", text + "\n")
    typer.echo(text) if as_json else _table(rows)


def _measured(
    what: What,
    pipeline: Any,
    inspector: Inspector,
    count: int,
    start_steps: Sequence[int],
    start_layers: Sequence[int],
    masks: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Rows, Image.Image | None]:
    """Further facts, the rows of the table, and the sheet."""
    from masactrl.bench import model_figures as figures
    from masactrl.bench.model_measure import measure_edits, measure_grid, measure_prompts
    from masactrl.bench.model_measure_forms import measure_forms

    if what is What.PROMPTS:
        near = max(1, count // 4)
        agreement = measure_prompts(pipeline, inspector, count=count, close_ups=near, **settings)
        row: dict[str, float | None] = {
            **agreement.shares,
            "close-up unasked": agreement.close_up_unasked,
            "close-up asked": agreement.close_up_asked,
        }
        return {"close_ups": near}, {"share": row}, figures.prompt_sheet(agreement)
    if what is What.GRID:
        grid = measure_grid(
            pipeline,
            inspector,
            start_steps=start_steps,
            start_layers=start_layers,
            pairs=count,
            **settings,
        )
        cells = {
            f"S={step} L={layer}": _row(side)
            for step, row in zip(grid.start_steps, grid.cells, strict=True)
            for layer, side in zip(grid.start_layers, row, strict=True)
        }
        return {}, {**cells, "no control": _row(grid.uncontrolled)}, figures.draw_grid(grid)
    where: dict[str, Any] = {
        "start_step": start_steps[0],
        "start_layer": start_layers[0],
        "pairs": count,
    }
    if what is What.EDITS:
        edits = measure_edits(pipeline, inspector, **where, **settings)
        sides = {"no control": edits.uncontrolled, "MasaCtrl": edits.controlled}
        return {}, {n: _row(side) for n, side in sides.items()}, figures.edit_sheet(edits)
    forms = measure_forms(pipeline, inspector, **where, **masks, **settings)
    facts = {
        "candidates": forms.candidates,
        "coat to background, kept": forms.alike,
        "coat to background, all": forms.typical,
        "useless automatic masks": forms.useless,
        **masks,
    }
    return facts, {n: _row(side) for n, side in forms.sides.items()}, figures.form_sheet(forms)


def _truth(out: Path, *, as_json: bool) -> None:
    """Measure the measure, which needs no model."""
    with quiet_libraries():
        from masactrl.bench.puppet_truth import measure_truth
        from masactrl.puppets.inspector import Inspector

        found = measure_truth(Inspector.load(), on_progress=_progress("identity"))
    rows = {name: row.figures() for name, row in found.items()}
    text = json.dumps({"rows": rows}, indent=2)
    write_text(out / "identity.json", text + "\n")
    typer.echo(text) if as_json else _table(rows)


def _progress(label: str) -> Callable[[int, int], None]:
    """Progress on standard error, a line at each tenth."""
    errors = Console(stderr=True)
    said = -1

    def told(done: int, total: int) -> None:
        nonlocal said
        if (tenth := 10 * done // total) > said:
            said = tenth
            errors.print(f"{label}: {done} of {total}", highlight=False)

    return told


def _row(side: EditSide) -> Mapping[str, float]:
    return {
        "identity error": side.identity_error,
        "by named colours": side.named_error,
        **asdict(side),
    }


def _table(rows: Rows) -> None:
    table = Table()
    table.add_column("")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for label, row in rows.items():
        cells = ("-" if value is None else f"{value:.3g}" for value in row.values())
        table.add_row(label, *cells)
    output().print(table)


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG and say where."""
    from masactrl.pictures.images import save_png

    save_png(path, picture, None)
    typer.echo(str(path))
