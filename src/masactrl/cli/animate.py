"""`masactrl animate`: one subject in motion, from a source and a layout for every frame."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from masactrl.cli.asked import asked_of
from masactrl.cli.console import finishing, interrupted, output, quiet_libraries
from masactrl.cli.declared import Given, only, takes, without
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import SizeOption
from masactrl.cli.output import Output
from masactrl.errors import ConfigError, MissingExtra
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.motion import MotionWords
from masactrl.runs.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masactrl.models import LoadedModel
    from masactrl.runs.asked import Asked
    from masactrl.runs.layout import Layout
    from masactrl.studies.animate import AnimationRun
    from masactrl.studies.animate_files import Film


@takes(
    without(GenerateRequest, "source_prompt", "method", "method_options"),
    only(InversionRequest, "source_prompt", "method"),
    only(EditRequest, "fresh_noise"),
    MotionWords,
    ModelSpec,
    Output,
)
def animate(
    given: Given,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="What the source shows, or a picture's file.")
    ],
    size: SizeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the subject of a source in motion: frames as PNG, and films of them.

    Every frame shows --to in a pose of its own, from the source's noise, and reads the source.
    SOURCE is a prompt, or the file of a picture, which is inverted; --from says what it shows.

    Frames are written as they are made. Ctrl-C finishes those at hand, and films what is done; a
    second Ctrl-C stops at once. The same command again goes on with the frames that are missing.

    Example: masactrl animate "a cat standing in the snow, facing left"
    --to "a cat in the snow, facing left" --poses walk -o walk
    """
    del config  # was read before the other options
    motion, written = given.build(MotionWords), given.build(Output)
    if len(given["to"]) != 1:
        raise ConfigError(f"An animation has one --to and {len(given['to'])} were given.")
    errors = Console(stderr=True)
    with quiet_libraries():
        asked = asked_of(given, source, size=size)

        from masactrl.studies.animate_files import check_films, film

        films, note = _films(motion.films)
        check_films(films)
        high = asked.request.height if isinstance(asked.request, GenerateRequest) else None
        poses = motion.layout(given["to"][0], high or 256)
        loaded = given.build(ModelSpec).load()
        with finishing(errors) as stopping, _bar(errors) as bar:
            run = _run(loaded, asked, poses, motion, bar)
            bar.expect(run)
            made = film(
                run,
                written.out,
                films=films,
                sheet=motion.sheet,
                overwrite=written.overwrite,
                metadata=written.metadata,
                on_frames=bar.frames,
                stop=stopping,
            )
            stopped = stopping()
    if note is not None:
        errors.print(f"Note: {note}", highlight=False, soft_wrap=True, markup=False)
    _tell(made, as_json=written.as_json)
    if stopped and made.frames < run.count:
        interrupted(f"{made.frames} of {run.count} frames are done; the same command goes on")


def _run(
    model: LoadedModel, asked: Asked, poses: Layout, motion: MotionWords, bar: _Bar
) -> AnimationRun:
    from masactrl.studies.animate import animation_run

    source = asked.open(model, bar.step)
    return animation_run(source, asked.request, poses, on_step=bar.step, **motion.frames_asked())


class _Bar:
    """Frames that are done and the time that is left, counted in steps."""

    def __init__(self, shown: Progress) -> None:
        self._shown, self._task = shown, shown.add_task("Drawing frames", total=None, frames="")
        self._run: AnimationRun | None = None
        self._done = 0

    def step(self, _: object) -> None:
        """Count one denoising step."""
        self._shown.advance(self._task)

    def expect(self, run: AnimationRun) -> None:
        """Learn what will be drawn."""
        self._run, self._done = run, -1

    def frames(self, done: int) -> None:
        """Show how many frames are done; the first time they are those that were kept."""
        if self._run is None:
            return
        if self._done < 0:
            left = -(-(self._run.count - done) // self._run.batch)
            study = self._run.study
            before = 1 + (study.of == "edit" and self._run.first_frame)
            steps = study.settings.steps * (before + left)
            self._shown.reset(self._task, total=steps)
        self._done = done
        self._shown.update(self._task, frames=f"{done}/{self._run.count} frames")


@contextmanager
def _bar(console: Console) -> Iterator[_Bar]:
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[frames]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with shown:
        yield _Bar(shown)


def _films(asked: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Kinds of films, and what is to be said where one is left out that nobody named."""
    if asked:
        return asked, None
    try:
        import av  # noqa: F401
    except ImportError:
        return ("gif",), str(MissingExtra("Writing MP4", extra="video"))
    return ("gif", "mp4"), None


def _tell(made: Film, *, as_json: bool) -> None:
    paths = [*made.paths, *made.films]
    if as_json:
        told = {"frames": made.frames, "kept": made.kept, "seconds": round(made.seconds, 3)}
        typer.echo(json.dumps({**told, "files": [str(path) for path in paths]}, indent=2))
        return
    kept = f", {made.kept} of them from before" if made.kept else ""
    lines = [f"{made.frames} frames{kept}, in {made.seconds:.1f} s", *map(str, made.films)]
    for line in lines:
        output().print(line, highlight=False, soft_wrap=True, markup=False)
