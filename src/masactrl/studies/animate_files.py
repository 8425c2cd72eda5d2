"""An animation on the disk: frames as they are made, then films; a run that broke off goes on.

A frame that is there and carries the very recipe of this run is kept: model, settings, poses and
versions are the same, and so would the frame be, to the bit. All others are in the way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from masactrl.errors import ConfigError, OutputError
from masactrl.pictures.files import written_whole
from masactrl.pictures.films import pyav
from masactrl.pictures.images import read_recipe
from masactrl.runs.motion import FILMS
from masactrl.runs.result import prepare_folder, write_pictures
from masactrl.studies.animate import ANIMATION, AnimationRun, frame_name, frame_sheet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Film", "check_films", "film", "kept_frames", "write_film"]

_SOURCE: Final = "source"
_WRITING: Final = "Writing MP4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """What was written.

    Attributes:
        frames: how many there are now, from the first on.
        kept: how many of them were there before.
        paths: of source, frames and, where asked for, the sheet.
        films: of the moving pictures.
        seconds: that it took.
    """

    frames: int
    kept: int
    paths: tuple[Path, ...]
    films: tuple[Path, ...]
    seconds: float


def check_films(films: Sequence[str]) -> None:
    """Refuse kinds of films that cannot be written.

    Raises:
        ConfigError: one is unknown.
        MissingExtra: PyAV is not installed, and mp4 is among them.
    """
    unknown = [name for name in films if name not in FILMS]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no film; accepted are {', '.join(FILMS)}.")
    if "mp4" in films:
        pyav(_WRITING)


def kept_frames(run: AnimationRun, folder: Path) -> frozenset[str]:
    """Return the names of source and frames in a folder that are those of this run."""
    names = [_SOURCE, *(frame_name(number) for number in range(1, run.count + 1))]
    wanted = run.recipe(_SOURCE)
    return frozenset(
        name for name in names if _recipe_of(folder / f"{name}.png") == wanted.of(name).to_json()
    )


def _recipe_of(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return read_recipe(path)
    except ConfigError:  # no picture, or a damaged recipe: nothing of this run
        return None


def film(
    run: AnimationRun,
    folder: Path,
    *,
    films: Sequence[str] = ("gif",),
    sheet: bool = False,
    overwrite: bool = False,
    metadata: bool = True,
    on_frames: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Film:
    """Draw an animation into a folder: every frame as it is made, then the films.

    Args:
        run: what is drawn.
        folder: made if it does not exist.
        films: names of `FILMS`.
        sheet: whether a sheet of all frames is written, too.
        overwrite: whether files of these names may be replaced; nothing is kept then.
        metadata: whether pictures carry their recipe, without which nothing can be kept.
        on_frames: told how many frames there are, first those that are kept.
        stop: asked before every further batch; True ends the run with the frames that are made.

    Raises:
        OutputError: it cannot be written, or would replace a file of another run.
        MasaCtrlError: what the run raises.
    """
    check_films(films)
    started = time.perf_counter()
    kept = frozenset[str]() if overwrite else kept_frames(run, folder)
    _check_place(run, folder, films, kept, overwrite=overwrite)
    done = len(kept - {_SOURCE})
    tell = on_frames or (lambda _: None)
    tell(done)
    recipe = run.recipe(ANIMATION) if metadata else None
    left = [
        numbers
        for numbers in run.batches()
        if any(frame_name(number + 1) not in kept for number in numbers)
    ]
    if left or _SOURCE not in kept:
        write_pictures(folder, {_SOURCE: run.frames.source()}, recipe)
    for numbers in left:
        if stop is not None and done and stop():
            break
        drawn = run.frames.draw(numbers)
        names = [frame_name(number + 1) for number in numbers]
        write_pictures(folder, dict(zip(names, drawn, strict=True)), recipe)
        done += sum(name not in kept for name in names)
        tell(done)
    paths = [folder / f"{frame_name(number)}.png" for number in range(1, run.count + 1)]
    there = paths[: next((k for k, path in enumerate(paths) if not path.exists()), run.count)]
    written = [folder / f"{_SOURCE}.png", *there]
    if sheet and there:
        made = frame_sheet(_opened(there), len(there))
        written += write_pictures(folder, {ANIMATION: made}, recipe)
    told = None if recipe is None else json.dumps(recipe.to_json())
    return Film(
        frames=len(there),
        kept=len(kept - {_SOURCE}),
        paths=tuple(written),
        films=tuple(
            write_film(folder / f"{ANIMATION}.{one}", there, run.fps, told)
            for one in (films if there else ())
        ),
        seconds=time.perf_counter() - started,
    )


def _check_place(
    run: AnimationRun,
    folder: Path,
    films: Sequence[str],
    kept: frozenset[str],
    *,
    overwrite: bool,
) -> None:
    """Refuse a folder with files of another run in the way; `OutputError`."""
    names = [_SOURCE, *(frame_name(number) for number in range(1, run.count + 1))]
    # Beside frames of this run, sheet and films are those of it, too.
    names += [] if kept else [ANIMATION]
    prepare_folder(folder, [n for n in names if n not in kept], overwrite=overwrite)
    present = [one for one in films if not kept and (folder / f"{ANIMATION}.{one}").exists()]
    if present and not overwrite:
        raise OutputError(
            f"{folder} holds {ANIMATION}.{present[0]} already; choose another folder or allow "
            "overwriting."
        )


def _opened(paths: Sequence[Path]) -> Iterator[Image.Image]:
    """One picture after the other, so that no two are in memory."""
    for path in paths:
        with Image.open(path) as frame:
            yield frame.convert("RGB")


def write_film(path: Path, frames: Sequence[Path], fps: float, recipe: str | None = None) -> Path:
    """Write pictures as a film, by the ending of its name; return its path.

    Args:
        path: ends in .gif, .webp or .mp4.
        frames: files of pictures of one size, at least one.
        fps: frames a second; a GIF has hundredths of a second, and is as near as that.
        recipe: as JSON; None for none.

    Raises:
        MissingExtra: PyAV is not installed, which writes MP4.
        OutputError: it cannot be written.
    """
    with written_whole(path) as beside:
        if path.suffix == ".mp4":
            _write_mp4(beside, frames, fps, recipe)
        else:
            (first,) = _opened(frames[:1])
            told: dict[str, Any] = {"duration": 1000 / fps}
            if path.suffix == ".webp":
                told |= {"quality": 90, "method": 4, "duration": round(1000 / fps)}
                if recipe is not None:
                    exif = Image.Exif()
                    exif[0x010E] = recipe  # ImageDescription
                    told["exif"] = exif
            elif recipe is not None:
                told["comment"] = recipe.encode("ascii")
            first.save(beside, save_all=True, append_images=_opened(frames[1:]), loop=0, **told)
    return path


def _write_mp4(path: Path, frames: Sequence[Path], fps: float, recipe: str | None) -> None:
    """H.264, sides made even."""
    from fractions import Fraction

    av = pyav(_WRITING)
    with av.open(str(path), "w") as container:
        if recipe is not None:
            container.metadata["comment"] = recipe
        stream: Any = None
        for frame in _opened(frames):
            width, height = (side - side % 2 for side in frame.size)
            if stream is None:
                rate = Fraction(fps).limit_denominator(1000)
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "16"}
            cut = np.asarray(frame.crop((0, 0, width, height)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))
        container.mux(stream.encode())
