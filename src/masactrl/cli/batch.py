"""`masactrl batch`: a manifest of edits, made once each, whatever is stopped in between."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from masactrl.batch.options import BatchOptions
from masactrl.cli.console import (
    finishing,
    interrupted,
    output,
    quiet_libraries,
    said,
    warnings_said,
)
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.options import PlanOption
from masactrl.cli.output import Output
from masactrl.errors import ConfigError
from masactrl.runs.model_spec import ModelSpec
from masactrl.settings.shared import parse_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.batch.run import BatchOutcome

_SHOWN = 20


@takes(BatchOptions, ModelSpec, only(Output, "out", "as_json", "no_metadata"))
def batch(
    given: Given,
    manifest: Annotated[
        Path | None,
        typer.Argument(
            metavar="MANIFEST",
            help="A .jsonl, .csv or .parquet file, one edit a row: file_name or source_prompt, "
            "target_prompt, and any setting by its name.",
            show_default="none, with --pie-bench",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of all rows, such as steps=25; a row's own goes before it; repeat for "
            "more.",
            show_default="none",
        ),
    ] = None,
    pie_bench: Annotated[
        Path | None,
        typer.Option(
            "--pie-bench",
            metavar="FOLDER",
            help="The rows of PIE-Bench, in place of a manifest: the folder with "
            "mapping_file.json.",
            show_default="none",
        ),
    ] = None,
    plan: PlanOption = False,
) -> None:
    """Make many edits, none lost and none twice.

    Every row is made once. Whatever is stopped, killed or unplugged: the same command goes on where
    it was. A row that fails is written down with its reason, and the others are made.

    Ctrl-C finishes the rows at hand; a second Ctrl-C stops at once. The exit is 0 when all rows are
    done, 1 when some failed, 130 when it was interrupted.

    Example: masactrl batch edits.jsonl -o run --workers 2 --set steps=25
    """
    written, options = given.build(Output), given.build(BatchOptions)
    spec = given.build(ModelSpec)
    rows = _rows(manifest, pie_bench)
    usual = parse_options(settings or ())
    errors = Console(stderr=True)
    with quiet_libraries():
        from masactrl.batch.plan import plan_batch
        from masactrl.batch.run import run_batch

        if plan:
            planned = plan_batch(rows, written.out, model=spec, options=options, settings=usual)
            if written.as_json:
                typer.echo(json.dumps(planned.values(), indent=2))
            else:
                for line in planned.lines():
                    output().print(line, highlight=False, soft_wrap=True, markup=False)
            if planned.wrong and not options.skip_bad:
                raise typer.Exit(1)
            return
        with (
            finishing(errors) as stopping,
            warnings_said(errors),
            _shown(errors, as_json=written.as_json) as on_event,
        ):
            outcome = run_batch(
                rows,
                written.out,
                model=spec,
                options=options,
                settings=usual,
                metadata=written.metadata,
                on_event=on_event,
                stopping=stopping,
            )
    _tell(errors, outcome, quiet=written.as_json)
    if outcome.stopped:
        left = sum(one.status == "open" for one in outcome.rows)
        interrupted(f"{outcome.made} rows were made, {left} are left; the same command goes on")
    if outcome.failed:
        raise typer.Exit(1)


def _rows(manifest: Path | None, pie_bench: Path | None) -> Any:
    if (manifest is None) == (pie_bench is None):
        raise ConfigError("Give a manifest, or --pie-bench with the folder of that benchmark.")
    if pie_bench is None:
        return manifest
    from masactrl.batch.pie_rows import pie_rows

    return pie_rows(pie_bench)


@contextmanager
def _shown(console: Console, *, as_json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show events: as lines of JSON, or as a bar with rate, failures and time left."""
    if as_json:
        events = sys.stdout
        # Ray writes there, too, when a worker dies; programs read events only.
        with redirect_stdout(sys.stderr):
            yield lambda event: typer.echo(json.dumps(event), file=events)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar, redirect_stdout(sys.stderr):
        task = bar.add_task("Looking over the rows", total=None, count="", rate="")

        def show(event: Mapping[str, Any]) -> None:
            if event["event"] == "begin":
                bar.reset(task, description="Editing", total=event["rows"], rate="")
            elif event["event"] == "row":
                minutes = (bar.tasks[0].elapsed or 0) / 60
                rate = f"{event['made'] / minutes:.1f} a minute" if minutes else ""
                if event["failed"]:
                    rate += f", {event['failed']} failed"
                count = f"{event['made']}/{event['rows']} rows"
                bar.update(task, completed=event["made"], count=count, rate=rate)

        yield show


def _tell(console: Console, outcome: BatchOutcome, *, quiet: bool) -> None:
    failed = outcome.failed
    for one in failed[:_SHOWN]:
        said(console, "Error", f"line {one.line}: {one.error}")
    if len(failed) > _SHOWN:
        said(console, "Error", f"and {len(failed) - _SHOWN} more; the report has them all.")
    said(
        console,
        "Done",
        f"{outcome.done} of {len(outcome.rows)} rows are done ({outcome.made} made now, in "
        f"{outcome.seconds:.0f} s), {len(failed)} failed.",
    )
    if not quiet:
        for path in outcome.paths:
            output().print(str(path), highlight=False, soft_wrap=True, markup=False)
