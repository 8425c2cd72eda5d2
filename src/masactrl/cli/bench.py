"""`masactrl bench`: right answers (puppets), the published protocol (pie), ablations, positions."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from masactrl.cli.ablation import ablation
from masactrl.cli.console import output, quiet_libraries, said
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.options import WorkersOption
from masactrl.cli.output import OUTPUT
from masactrl.cli.positions import positions
from masactrl.errors import ConfigError
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import MODEL, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

app = typer.Typer(
    help="Measure methods on the embedded world, where the right answer is known, or on PIE-Bench; "
    "show what S, L, places and masks do, and which layers depend on position."
)

app.command("ablation")(ablation)
app.command("positions")(positions)

DEFAULT_COLUMNS = ("masactrl", "prompt-to-prompt", "plug-and-play", "sdedit")
LAYOUT_COLUMNS = ("masactrl", "masactrl:layout=no", "prompt-to-prompt", "plug-and-play")

OutFolder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="FOLDER",
        help="Of the run; a run that was stopped goes on in it.",
        rich_help_panel=OUTPUT,
    ),
]


@app.command("puppets")
@takes(
    only(InversionRequest, "method"),
    only(EditRequest, "guidance_scale"),
    only(ModelSpec, "model", "device", "dtype"),
    only(LayoutWords, "layout_model"),
)
def puppets(
    given: Given,
    out: OutFolder = Path("bench"),
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME[:OPTION=VALUE,...]",
            help="A method with options, such as sdedit:strength=0.5, or layout=no, which keeps "
            "the layout from it; repeat for more.",
            show_default=f"{', '.join(DEFAULT_COLUMNS)}; of layout {', '.join(LAYOUT_COLUMNS)}",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="reporting, or tuning for choosing settings.")
    ] = "reporting",
    half: Annotated[
        str,
        typer.Option(
            help="rendered (sources drawn exactly and inverted), synthesised (sources made from "
            "prompts), or both."
        ),
    ] = "both",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Only the first so many tasks of a half, 1 and more.", show_default="all"
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Only action, facing, 'look back' or close-up; or layout, tasks of their own "
            "that no words say, led by a skeleton; repeat for more.",
            show_default="all but layout",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=16, help="Start noises per task.")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Tasks at once.")] = 8,
    pictures: Annotated[int, typer.Option(min=0, help="Of how many tasks pictures are kept.")] = 12,
    workers: WorkersOption = 1,
) -> None:
    """Run PuppetBench: non-rigid edits of the embedded world, judged against right answers.

    Doing nothing and following the prompt alone are always in the table. A second run of the same
    command goes on where the first was stopped.

    Example: masactrl bench puppets --limit 10 --seeds 1 --method masactrl --method sdedit -o bench
    """
    with quiet_libraries():
        from masactrl.bench.puppet_report import write_report
        from masactrl.bench.puppet_run import Column, PuppetSettings, run_puppets
        from masactrl.bench.puppet_tasks import LAYOUT, halves_of
        from masactrl.puppets.inspector import Inspector

        usual = LAYOUT_COLUMNS if LAYOUT in (kind or ()) else DEFAULT_COLUMNS
        settings = PuppetSettings(
            columns=tuple(map(Column.written, column or usual)),
            steps=steps,
            guidance=given["cfg"],
            seeds=seeds,
            batch=batch,
            pictures=pictures,
            inversion=given["inversion"],
            layout_model=_network(given),
        )
        tasks = halves_of(split, half, limit=limit, kinds=kind)
        loaded = given.build(ModelSpec).load()
        inspector = Inspector.load(device=loaded.pipeline.device)
        with _items("Editing") as on_progress:
            ledger = run_puppets(
                loaded, inspector, tasks, settings, out, workers=workers, on_progress=on_progress
            )
    keys = {task.key for task in tasks}
    rows = [row for row in ledger if row["task"] in keys]
    noises = f"{seeds} seed{'' if seeds == 1 else 's'}"
    settled = f"{noises}, {steps} steps, {loaded.dtype}"
    title = f"PuppetBench, {split} split, {len(tasks)} tasks, {settled}"
    paths = write_report(rows, out, title=title)
    console = output()
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
    failed = sum("error" in row for row in rows)
    if failed:
        said(Console(stderr=True), "Error", f"{failed} of {len(rows)} items failed; see the table.")
        raise typer.Exit(1)


@app.command("pie")
@takes(only(ModelSpec, "device", "dtype"))
def pie(
    given: Given,
    data: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The data: mapping_file.json and annotation_images."),
    ],
    out: OutFolder = Path("pie"),
    editor: Annotated[
        list[str] | None,
        typer.Option(
            "--editor",
            help="pie-ddim+masactrl, pie-directinversion+masactrl, pie-ddim+p2p, "
            "pie-directinversion+p2p, prompt-only, nothing, or INVERSION+METHOD such as "
            "direct+plug-and-play; repeat for more.",
            show_default="nothing; where --model is given also prompt-only and the first two",
        ),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            "--pictures",
            metavar="LABEL=FOLDER",
            help="Score pictures that are there, under the sources' paths; repeat for more.",
            show_default="none",
        ),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", help="Only this editing type, 0 to 9; repeat for more.", show_default="all"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="As elsewhere; Stable Diffusion 1.4 for the published rows.",
            show_default="none",
            rich_help_panel=MODEL,
        ),
    ] = None,
    workers: WorkersOption = 1,
) -> None:
    """Run or score PIE-Bench as published (Ju et al., 2024), for people who have the data.

    Rows that cannot be used are named and left out; the exit code says whether there were any.

    Example: masactrl bench pie PIE-Bench_v1 --model CompVis/stable-diffusion-v1-4 -o pie
    """
    with quiet_libraries():
        from masactrl.batch.pie_data import read_pie
        from masactrl.bench.pie_metrics import load_pie_metrics
        from masactrl.bench.pie_run import Scored, run_pie
        from masactrl.models.devices import choose_device

        found = read_pie(data, types=types)
        editors = {label: Scored(folder) for label, folder in _folders(pictures or ())}
        names = editor or _usual_editors(model, bool(editors))
        editors |= _editors(names, model, given.build(ModelSpec))
        if not editors:
            raise ConfigError("There is nothing to score; give --editor or --pictures.")
        metrics = load_pie_metrics(choose_device(given["device"]))
        with _items("Scoring") as on_progress:
            outcome = run_pie(
                found,
                editors,
                metrics,
                out,
                settings={"model": model},
                workers=workers,
                on_progress=on_progress,
            )
    console = output()
    console.print(outcome.table_path.read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    for path in (outcome.table_path, outcome.csv_path, *outcome.plots):
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
    errors = Console(stderr=True)
    for problem in outcome.problems:
        said(errors, "Error", f"{problem.key}: {problem.reason}")
    said(errors, "Done", f"{outcome.done} scored, {len(outcome.problems)} left out.")
    if outcome.problems:
        raise typer.Exit(1)


def _network(given: Given) -> str | None:
    """What reads the skeletons of layout tasks."""
    networks = given.build(LayoutWords).networks()
    if set(networks) - {"pose"}:
        raise ConfigError("Layouts of tasks are skeletons; write --layout-model pose=MODEL.")
    return networks.get("pose")


def _folders(words: list[str] | tuple[()]) -> list[tuple[str, Path]]:
    pairs = []
    for word in words:
        label, sign, folder = word.partition("=")
        if not sign or not label or not Path(folder).is_dir():
            raise ConfigError(f"{word!r} is no LABEL=FOLDER with a folder that is there.")
        pairs.append((label, Path(folder)))
    return pairs


def _usual_editors(model: str | None, scored: bool) -> tuple[str, ...]:
    if model is not None:
        return ("nothing", "prompt-only", "pie-ddim+masactrl", "pie-directinversion+masactrl")
    return () if scored else ("nothing",)


def _editors(
    names: list[str] | tuple[str, ...], model: str | None, spec: ModelSpec
) -> dict[str, Any]:
    """The package's own editors, with their model where one is needed."""
    from masactrl.bench.pie_editors import pie_editors, published_scheduler

    loaded = None
    if model is not None and any(name != "nothing" for name in names):
        loaded = replace(spec, model=model).load()
        loaded.pipeline.scheduler = published_scheduler(loaded.pipeline.scheduler)
    return pie_editors(loaded, names)


@contextmanager
def _items(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over items, on a terminal only."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
