"""A subject in motion: one source, one prompt, a layout for every frame (the paper's video).

Every frame starts from the source's noise and reads the source, which is run and recorded once; so
a frame costs what a plain picture costs, and memory does not grow with their number. Frames go
through in batches, each led by its own layout. With ``first_frame`` they read the first of them,
too, as Eq. 5 of the paper with the keys and values of two images side by side.

    animate(source, request, poses)             in memory
    studies.animate_files.film(run, folder)     onto the disk as they are made
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from masactrl.errors import ConfigError, ControlWarning
from masactrl.models.drawing import first_level_warning
from masactrl.pictures.images import Tile, contact_sheet
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.prompts import prompt_warnings
from masactrl.studies.animate_frames import Frames, FromPicture, FromWords
from masactrl.studies.source import Study, study_of

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.runs.generate import StepRecord
    from masactrl.runs.layout import Layout
    from masactrl.runs.recipe import Recipe
    from masactrl.studies.source import Request, Source

__all__ = [
    "ANIMATION",
    "Animation",
    "AnimationRun",
    "animate",
    "animation_run",
    "frame_name",
    "frame_sheet",
]

ANIMATION: Final = "animation"
"""Name of the moving picture's files, and of the sheet's."""

_COLUMNS: Final = 8  # of the sheet of frames
_HIGHEST: Final = 8192  # pixels of that sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimationRun:
    """An animation before it is drawn: what it will be, and who draws it.

    Attributes:
        study: the source, and what is asked of it: the plain run of a frame.
        poses: the layouts of the frames.
        fps: frames a second.
        batch: frames at once.
        first_frame: whether frames read the first one, too.
        words: what the command line calls the poses: a gait, or a folder's name.
        frames: draws them.
    """

    study: Study
    poses: Layout
    fps: float
    batch: int
    first_frame: bool
    words: str
    frames: Frames

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 < self.fps <= 120:
            raise ConfigError(
                f"batch={self.batch} and fps={self.fps:g} were given; accepted are 1 and more, and "
                "above 0 to 120."
            )

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self.poses.pictures)

    def batches(self) -> tuple[range, ...]:
        """Return the numbers, from 0, of the frames that are made at once."""
        starts = range(0, self.count, self.batch)
        return tuple(range(at, min(at + self.batch, self.count)) for at in starts)

    def recipe(self, picture: str) -> Recipe:
        """Return how the picture of that name is made."""
        asked = {
            "of": self.study.of,
            "run": self.study.told(),
            "poses": PurePath(self.words).name,  # a recipe tells nobody's folders
            "layout": self.poses.described(),
            "fps": self.fps,
            "batch": self.batch,
            "first_frame": self.first_frame,
        }
        inputs = (*self.study.inputs(), *self.poses.stated)
        return replace(self.study.recipe("animate", picture), request=asked, inputs=inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Animation:
    """What an animation made.

    Attributes:
        run: what was asked for.
        source: the picture that all frames agree with.
        frames: in order; fewer than asked for, where somebody stopped the run.
        seconds: that the run took.
    """

    run: AnimationRun
    source: Image.Image
    frames: tuple[Image.Image, ...]
    seconds: float

    def to_sheet(self) -> Image.Image:
        """Return all frames on one sheet, row by row."""
        return frame_sheet(self.frames, len(self.frames))


def frame_sheet(frames: Iterator[Image.Image] | Sequence[Image.Image], count: int) -> Image.Image:
    """Return so many frames on one sheet, row by row; made smaller where it would be very high."""
    rows = -(-count // _COLUMNS)
    tiles = [Tile(image=_lower(frame, _HIGHEST // rows)) for frame in frames]
    return contact_sheet([tiles[k : k + _COLUMNS] for k in range(0, len(tiles), _COLUMNS)])


def _lower(frame: Image.Image, height: int) -> Image.Image:
    if frame.height <= height:
        return frame
    return frame.resize((max(1, frame.width * height // frame.height), height))


def frame_name(number: int) -> str:
    """Name of a frame's file, from 1."""
    return f"frame{number:04d}"


def animate(
    source: Source,
    request: Request,
    poses: Layout,
    *,
    fps: float = 12.0,
    batch: int = 4,
    first_frame: bool = False,
    words: str = "",
    only: Sequence[int] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Animation:
    """Make a source and a frame for every picture of the poses.

    Args:
        source: what `load_pipeline` returns; or what `invert` does, whose picture is the source.
        request: a `GenerateRequest` with one target prompt, that of every frame; of an inverted
            picture an `EditRequest`, of the mode ahead or cached and without masks.
        poses: a layout with as many pictures as there are frames.
        fps: frames a second.
        batch: frames at once, at least 1.
        first_frame: whether frames read the first one, too, beside the source.
        words: what the command line calls the poses, for recipes.
        only: numbers of the batches that are made, from 0; None makes all.
        on_step: called after each denoising step.
        stop: asked before every further batch; True ends the run with the frames that are made.

    Raises:
        ConfigError: there are more targets than one, another method is named, the request is not
            one for such a source, or a number is out of range.
        ModelNotFound: there is no network for the layout.
        MasaCtrlError: the model made NaN or infinite values, as some do in float16.

    Warns:
        ControlWarning: the model will not see a prompt as it was written.
    """
    run = animation_run(
        source,
        request,
        poses,
        fps=fps,
        batch=batch,
        first_frame=first_frame,
        words=words,
        on_step=on_step,
    )
    started = time.perf_counter()
    picture = run.frames.source()
    frames: list[Image.Image] = []
    for number, numbers in enumerate(run.batches()):
        if only is not None and number not in only:
            continue
        if frames and stop is not None and stop():
            break
        frames += run.frames.draw(numbers)
    seconds = time.perf_counter() - started
    return Animation(run=run, source=picture, frames=tuple(frames), seconds=seconds)


def animation_run(
    source: Source,
    request: Request,
    poses: Layout,
    *,
    fps: float,
    batch: int,
    first_frame: bool = False,
    words: str = "",
    on_step: Callable[[StepRecord], None] | None = None,
) -> AnimationRun:
    """Return an animation that can be drawn; arguments, errors and warnings are `animate`'s."""
    _check(request)
    if isinstance(request, EditRequest):
        request = replace(request, compare=False)
    study = study_of(source, request)
    frames: Frames
    if study.session is None:
        model, settings = study.model, study.settings
        for note in (
            *first_level_warning(model.pipeline.scheduler, settings.steps),
            *prompt_warnings(model, [settings.source_prompt, *settings.target_prompts]),
        ):
            warnings.warn(note, ControlWarning, stacklevel=3)
        frames = FromWords(model, settings, poses, first_frame, on_step)
    else:
        frames = FromPicture(study.session, study.request, poses, first_frame, on_step)
    return AnimationRun(
        study=study,
        poses=poses,
        fps=fps,
        batch=batch,
        first_frame=first_frame,
        words=words,
        frames=frames,
    )


def _check(request: Request) -> None:
    if len(request.target_prompts) != 1:
        raise ConfigError("An animation has one target prompt, that of every frame.")
    if request.method != "masactrl" or request.layouts:
        raise ConfigError("An animation is by masactrl, and its layouts are the poses.")
    if isinstance(request, EditRequest) and (request.mode == "joint" or request.masks is not None):
        raise ConfigError("An animation records its source once, and has no masks.")
