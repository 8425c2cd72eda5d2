"""`masactrl animate`: one subject in motion, from a source and a layout for every frame."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from masactrl.cli.console import finishing, interrupted, output, progress, quiet_libraries
from masactrl.cli.declared import Given, takes, without
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import SizeOption
from masactrl.cli.output import Output
from masactrl.cli.parsing import parse_size
from masactrl.errors import MissingExtra
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.motion import MotionWords
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import prepare_folder


@takes(without(GenerateRequest, "method", "method_options"), MotionWords, ModelSpec, Output)
def animate(given: Given, size: SizeOption = None, config: ConfigOption = None) -> None:
    """Show the subject of a source in motion: frames, a GIF and an MP4.

    Every frame shows --to in a pose of its own, from the source's noise, and reads the source. The
    MP4 needs the extra video.

    Ctrl-C finishes the frames at hand and keeps what is done; a second Ctrl-C stops at once.

    Example: masactrl animate "a cat standing in the snow, facing left"
    --to "a cat in the snow, facing left" --poses walk -o walk
    """
    del config  # was read before the other options
    width, height = (None, None) if size is None else parse_size(size)
    seed = given["seed"] or 0
    request = given.build(GenerateRequest, seed=seed, width=width, height=height)
    motion, written = given.build(MotionWords), given.build(Output)
    errors = Console(stderr=True)
    with quiet_libraries():
        from masactrl.studies.animate import animate as run
        from masactrl.studies.animate import animation_names

        spec = given.build(ModelSpec)
        poses = motion.layout(request.target_prompts[0], height or 256)
        count = len(poses.pictures)
        prepare_folder(written.out, animation_names(count), overwrite=written.overwrite)
        mp4 = _can_write_mp4()
        loaded = spec.load()
        steps = request.resolve(loaded.preset).steps
        total = steps * (1 + -(-count // motion.batch))
        with finishing(errors) as stopping, progress(errors, "Drawing frames", total) as on_step:
            result = run(
                loaded,
                request,
                poses,
                fps=motion.fps,
                batch=motion.batch,
                words=motion.poses,
                on_step=on_step,
                stop=stopping,
            )
            stopped = stopping()
    paths = result.save(
        written.out, overwrite=written.overwrite, metadata=written.metadata, mp4=mp4 is None
    )
    if mp4 is not None:
        errors.print(f"Note: {mp4}", highlight=False, soft_wrap=True, markup=False)
    _tell(paths, len(result.frames), result.seconds, as_json=written.as_json)
    if stopped:
        interrupted(f"{len(result.frames)} of {count} frames are done")


def _can_write_mp4() -> str | None:
    """None where PyAV is there, else what to say."""
    try:
        import av  # noqa: F401
    except ImportError:
        return str(MissingExtra("Writing MP4", extra="video"))
    return None


def _tell(paths: tuple[Path, ...], frames: int, seconds: float, *, as_json: bool) -> None:
    moving = [path for path in paths if path.suffix in (".gif", ".mp4")]
    if as_json:
        told = {"frames": frames, "seconds": round(seconds, 3), "files": [str(p) for p in paths]}
        typer.echo(json.dumps(told, indent=2))
        return
    output().print(f"{frames} frames in {seconds:.1f} s", highlight=False)
    for path in moving:
        output().print(str(path), highlight=False, soft_wrap=True, markup=False)
