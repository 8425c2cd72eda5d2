"""A subject in motion: one source, one prompt, a layout for every frame (the paper's video).

Every frame starts from the source's noise and reads the source, which is run and recorded once; so
a frame costs what a plain picture costs, and memory does not grow with their number. Frames go
through in batches, each led by its own layout.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError, ControlWarning, MissingExtra
from masactrl.layouts.attach import attach_layouts
from masactrl.methods import MasaCtrl
from masactrl.models.drawing import first_level_warning
from masactrl.pictures.images import Tile, contact_sheet
from masactrl.runs.generate import painter
from masactrl.runs.layout import guides_of
from masactrl.runs.prompts import prompt_warnings
from masactrl.runs.recipe import Recipe, stated_model
from masactrl.runs.result import prepare_folder, write_pictures
from masactrl.settings.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.layout import Layout
    from masactrl.runs.recipe import ModelStated
    from masactrl.runs.request import GenerateRequest, ResolvedRequest

__all__ = ["ANIMATION", "Animation", "animate", "animation_names", "frame_name", "write_mp4"]

ANIMATION: Final = "animation"
"""Name of the moving picture's files, and of the sheet's."""

_COLUMNS: Final = 8  # of the sheet of frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Animation:
    """What an animation made.

    Attributes:
        source: the picture that all frames agree with.
        frames: in order; fewer than asked for, where somebody stopped the run.
        fps: frames a second.
        request: what was run, nothing left open; its target prompt is that of every frame.
        poses: the layouts of the frames.
        words: what the command line calls them: a gait, or a folder's name.
        batch: frames at once.
        seconds: that the run took.
        model: what made it, for recipes.
        device, dtype: where and in which precision.
    """

    source: Image.Image
    frames: tuple[Image.Image, ...]
    fps: float
    request: ResolvedRequest
    poses: Layout
    words: str
    batch: int
    seconds: float
    model: ModelStated
    device: str
    dtype: str

    def pictures(self) -> dict[str, Image.Image]:
        """Return the source and every frame under the name that `save` gives it."""
        return {"source": self.source} | {
            frame_name(number): frame for number, frame in enumerate(self.frames, start=1)
        }

    def to_sheet(self) -> Image.Image:
        """Return all frames on one sheet, row by row."""
        tiles = [Tile(image=frame) for frame in self.frames]
        return contact_sheet([tiles[k : k + _COLUMNS] for k in range(0, len(tiles), _COLUMNS)])

    def recipe(self, picture: str) -> Recipe:
        """Return how the picture of that name was made."""
        return Recipe(
            kind="animate",
            picture=picture,
            model=self.model,
            device=self.device,
            dtype=self.dtype,
            request={
                "run": self.request.recipe(),
                "poses": PurePath(self.words).name,  # a recipe tells nobody's folders
                "layout": self.poses.described(),
                "fps": self.fps,
                "batch": self.batch,
            },
            inputs=self.poses.stated,
        )

    def save(
        self, folder: Path, *, overwrite: bool = False, metadata: bool = True, mp4: bool = True
    ) -> tuple[Path, ...]:
        """Write source, frames, sheet, GIF and MP4; return their paths.

        Args:
            folder: made if it does not exist.
            overwrite: whether files of these names may be replaced.
            metadata: whether pictures carry their recipe.
            mp4: whether the MP4 is written, which needs the extra video.

        Raises:
            OutputError: it cannot be written, or would replace a file.
            MissingExtra: PyAV is not installed.
        """
        prepare_folder(folder, animation_names(len(self.frames)), overwrite=overwrite)
        made = {**self.pictures(), ANIMATION: self.to_sheet()}
        paths = write_pictures(folder, made, self.recipe(ANIMATION) if metadata else None)
        gif = folder / f"{ANIMATION}.gif"
        first, *others = self.frames
        first.save(
            gif, save_all=True, append_images=others, duration=round(1000 / self.fps), loop=0
        )
        if not mp4:
            return (*paths, gif)
        return (*paths, gif, write_mp4(folder / f"{ANIMATION}.mp4", self.frames, self.fps))


def frame_name(number: int) -> str:
    """Name of a frame's file, from 1."""
    return f"frame{number:04d}"


def animation_names(frames: int) -> tuple[str, ...]:
    """Return the names of the pictures that `Animation.save` writes."""
    return ("source", *(frame_name(k) for k in range(1, frames + 1)), ANIMATION)


@torch_defaults()
def animate(
    model: LoadedModel,
    request: GenerateRequest,
    poses: Layout,
    *,
    fps: float = 12.0,
    batch: int = 4,
    words: str = "",
    only: Sequence[int] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Animation:
    """Make a source and a frame for every picture of the poses.

    Args:
        model: what `load_pipeline` returns.
        request: source and one target prompt, that of every frame.
        poses: a layout with as many pictures as there are frames.
        fps: frames a second.
        batch: frames at once, at least 1.
        words: what the command line calls the poses, for recipes.
        only: numbers of the batches that are made, from 0; None makes all.
        on_step: called after each denoising step.
        stop: asked before every further batch; True ends the run with the frames that are made.

    Raises:
        ConfigError: there are more targets than one, another method is named, or a number is out
            of range.
        ModelNotFound: there is no network for the layout.
        MasaCtrlError: the model made no numbers, as some do in float16.

    Warns:
        ControlWarning: the model will not see a prompt as it was written.
    """
    if len(request.target_prompts) != 1:
        raise ConfigError("An animation has one target prompt, that of every frame.")
    if request.method != "masactrl" or request.layouts:
        raise ConfigError("An animation is by masactrl, and its layouts are the poses.")
    if batch < 1 or not 0 < fps <= 120:
        raise ConfigError(
            f"batch={batch} and fps={fps:g} were given; accepted are 1 and more, and above 0 to "
            "120."
        )
    settings = request.resolve(model.preset)
    for note in (
        *first_level_warning(model.pipeline.scheduler, settings.steps),
        *prompt_warnings(model, [settings.source_prompt, *settings.target_prompts]),
    ):
        warnings.warn(note, ControlWarning, stacklevel=3)
    started, count = time.perf_counter(), len(poses.pictures)
    (guide,) = guides_of(
        model,
        [poses],
        size=(settings.height, settings.width),
        images=range(1, count + 1),
        targets=count,
    )
    control = MasaCtrl(
        schedule=Schedule(start_step=settings.start_step, start_layer=settings.start_layer),
        form=settings.form,
        strength=settings.strength,
    )
    pictures = painter(model, settings, on_step)
    with control.record(model.pipeline, device="cpu") as recorded:
        (source,) = pictures([settings.source_prompt])
    frames: list[Image.Image] = []
    for number, at in enumerate(range(0, count, batch)):
        if only is not None and number not in only:
            continue
        if frames and stop is not None and stop():
            break
        shown = guide.pictures[at : at + batch]
        rows = Rows.from_cache(targets=len(shown))
        part = replace(guide, pictures=shown)
        with (
            attach_layouts(model.pipeline, [part], images=len(shown)),
            control.attach(model.pipeline, rows, source=recorded),
        ):
            frames += pictures(list(settings.target_prompts) * len(shown))
    return Animation(
        source=source,
        frames=tuple(frames),
        fps=fps,
        request=settings,
        poses=poses,
        words=words,
        batch=batch,
        seconds=time.perf_counter() - started,
        model=stated_model(model),
        device=model.pipeline._execution_device.type,
        dtype=model.dtype,
    )


def write_mp4(path: Path, frames: Sequence[Image.Image], fps: float) -> Path:
    """Write frames as an MP4 (H.264), sides made even; return its path.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtra("Writing MP4", extra="video") from error
    from fractions import Fraction

    width, height = (side - side % 2 for side in frames[0].size)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16"}
        for frame in frames:
            cut = frame.convert("RGB").crop((0, 0, width, height))
            shown = av.VideoFrame.from_ndarray(np.asarray(cut), format="rgb24")
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return path
