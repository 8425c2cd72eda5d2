"""`masactrl animate`: one subject in motion, from a source and a layout for every frame."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from masactrl.cli.console import finishing, interrupted, output, quiet_libraries
from masactrl.cli.declared import Given, only, takes, without
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import SizeOption
from masactrl.cli.output import Output
from masactrl.cli.parsing import parse_photo, parse_size
from masactrl.errors import ConfigError, MissingExtra
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest, draws_noise
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.motion import MotionWords
from masactrl.runs.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from masactrl.models import LoadedModel
    from masactrl.runs.layout import Layout
    from masactrl.studies.animate import AnimationRun
    from masactrl.studies.animate_files import Film


@takes(
    without(GenerateRequest, "source_prompt", "method", "method_options"),
    only(InversionRequest, "source_prompt", "method"),
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
    photo, motion, written = parse_photo(source), given.build(MotionWords), given.build(Output)
    errors = Console(stderr=True)
    with quiet_libraries():
        asked = _from_words(given, source, size) if photo is None else _from_photo(given, size)

        from masactrl.studies.animate_files import check_films, film

        films, note = _films(motion.films)
        check_films(films)
        if photo is not None:
            from masactrl.pictures.input import read_picture

            read_picture(photo)  # so that a file that cannot be read is said at once
        (prompt,) = _one(given["to"])
        high = asked.height if isinstance(asked, GenerateRequest) else None
        poses = motion.layout(prompt, high or 256)
        loaded = given.build(ModelSpec).load()
        with finishing(errors) as stopping, _bar(errors) as bar:
            run = _run(loaded, photo, asked, poses, motion, bar)
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


Asked: TypeAlias = "GenerateRequest | tuple[InversionRequest, EditRequest]"


def _one(prompts: list[str]) -> list[str]:
    if len(prompts) != 1:
        raise ConfigError(f"An animation has one --to and {len(prompts)} were given.")
    return prompts


def _from_words(given: Given, source: str, size: str | None) -> GenerateRequest:
    if given["from"] or given["inversion"] != "direct":
        raise ConfigError(
            "--from and --inversion belong to a picture, and SOURCE is taken for a prompt; leave "
            "them out, or give the file of a picture."
        )
    width, height = (None, None) if size is None else parse_size(size)
    return given.build(
        GenerateRequest,
        source_prompt=source,
        seed=given["seed"] or 0,
        width=width,
        height=height,
    )


def _from_photo(given: Given, size: str | None) -> tuple[InversionRequest, EditRequest]:
    if size:
        raise ConfigError("--size belongs to a source from a prompt, and a picture was given.")
    drawn = draws_noise(given["inversion"])
    if given["seed"] is not None and not drawn:
        raise ConfigError(
            "--seed belongs to a prompt, or to an inversion that draws noise; leave it out."
        )
    return given.build(InversionRequest), given.build(EditRequest, seed=None, compare=False)


def _run(
    model: LoadedModel,
    photo: Path | None,
    asked: Asked,
    poses: Layout,
    motion: MotionWords,
    bar: _Bar,
) -> AnimationRun:
    from masactrl.studies.animate import edited_run, generated_run

    own: dict[str, Any] = {"fps": motion.fps, "batch": motion.batch, "words": motion.poses}
    own |= {"first_frame": motion.first_frame, "on_step": bar.step}
    if isinstance(asked, GenerateRequest):
        return generated_run(model, asked, poses, **own)
    from masactrl.runs.invert import invert

    session = invert(model, str(photo), asked[0], on_step=bar.step)
    return edited_run(session, asked[1], poses, **own)


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
            before = 1 + (self._run.of == "edit" and self._run.first_frame)
            steps = self._run.request["steps"] * (before + left)
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
