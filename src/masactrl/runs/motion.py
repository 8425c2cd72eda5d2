"""The poses of an animation in words: a gait of the small world, a folder of pictures, a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from masactrl.errors import ConfigError
from masactrl.pictures.films import FilmReader, is_film
from masactrl.runs.layout import (
    LAYOUT,
    Layout,
    LayoutModels,
    LayoutScale,
    LayoutUntil,
    PicturesWhenWanted,
    networks_of,
    stated_file,
)
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check

__all__ = ["FILMS", "GAIT_NAMES", "MotionWords", "layout_of_frames"]

FILMS: Final = ("gif", "mp4", "webp")
"""Kinds of films."""

GAIT_NAMES: Final = ("walk", "run", "jump", "sit")
"""Those of `masactrl.puppets.gaits.GAITS`, known without importing torch."""

_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionWords:
    """What `masactrl animate` is told of the frames.

    Raises:
        ConfigError: a number is out of its range.
    """

    poses: Annotated[
        str,
        Setting(
            help=f"{', '.join(GAIT_NAMES)} of the embedded world, a folder of pictures, one a "
            "frame in the order of their names, or a film.",
            metavar="GAIT|FOLDER|FILM",
            always=True,
        ),
    ] = "walk"
    frames: Annotated[
        int, Setting(help="How many frames of a gait, 2 to 1000.", low=2, high=1000)
    ] = 24
    fps: Annotated[
        float,
        Setting(
            help="Frames a second, above 0, up to 120.",
            label="Frames a second",
            above=0,
            high=120,
        ),
    ] = 12.0
    batch: Annotated[int, Setting(help="Frames at once, 1 and more.", low=1)] = 4
    kind: Annotated[str, Setting(help="What folder or film shows, such as pose.", panel=LAYOUT)] = (
        "pose"
    )
    first_frame: Annotated[
        bool,
        Setting(
            help="Frames read the first frame, too, beside the source.",
            label="Read the first frame, too",
        ),
    ] = False
    films: Annotated[
        tuple[str, ...],
        Setting(
            help=f"Kind of film to write, {', '.join(FILMS)}; repeat it for several. Frames are "
            "written as PNG in any case.",
            flag="film",
            metavar="KIND",
            usual="gif, and mp4 with the extra video",
        ),
    ] = ()
    sheet: Annotated[bool, Setting(help="Write a sheet of all frames, too.")] = False
    layout_model: LayoutModels = ()
    layout_scale: LayoutScale = 1.0
    layout_until: LayoutUntil = 1.0

    def __post_init__(self) -> None:
        settle(self)
        check(self)

    def frames_asked(self) -> dict[str, Any]:
        """Return what `masactrl.studies.animate.animation_run` is told of the frames."""
        own = {"fps": self.fps, "batch": self.batch, "first_frame": self.first_frame}
        return {**own, "words": self.poses}

    def layout(self, prompt: str, size: int) -> Layout:
        """Return the frames' layouts.

        Args:
            prompt: of the target; of gaits it says which animal, and where it faces.
            size: side of drawn skeletons in pixels.

        Raises:
            ConfigError: there is no such gait, folder or film, a picture cannot be read, or the
                prompt names no animal.
            MissingExtra: PyAV is not installed, which reads films.
        """
        gait = self.poses in GAIT_NAMES
        kind = "pose" if gait else self.kind
        networks = networks_of(self.layout_model, [kind], "--kind KIND")
        made = self._gait(prompt, size) if gait else self._shown()
        return replace(
            made, model=networks.get(kind), scale=self.layout_scale, end=self.layout_until
        )

    def _gait(self, prompt: str, size: int) -> Layout:
        from masactrl.puppets.captions import parse
        from masactrl.puppets.gaits import gait_skeleton

        said = parse(prompt)
        if said.species is None:
            raise ConfigError(
                f"The gaits are those of the embedded world's animals, and {prompt!r} names none; "
                "name one, or give a folder or film of poses."
            )
        draw = partial(
            gait_skeleton,
            self.poses,
            self.frames,
            species=said.species,
            facing=said.facing or "left",
            size=size,
        )
        return Layout(kind="pose", pictures=PicturesWhenWanted(self.frames, draw))

    def _shown(self) -> Layout:
        folder = Path(self.poses)
        if folder.is_file() and is_film(folder):
            return layout_of_frames(self.kind, [folder])
        if not folder.is_dir():
            raise ConfigError(
                f"{self.poses!r} is no gait ({', '.join(GAIT_NAMES)}), no folder of pictures and "
                "no film."
            )
        files = sorted(one for one in folder.iterdir() if one.suffix.lower() in _PICTURES)
        if len(files) < 2:
            raise ConfigError(f"{folder} holds {len(files)} pictures; an animation has at least 2.")
        return layout_of_frames(self.kind, files)


def layout_of_frames(kind: str, files: Sequence[Path]) -> Layout:
    """Return the layouts of frames, read one at a time: here to see that all can be, later in turn.

    Args:
        kind: what they show.
        files: a picture a frame, or one film.

    Raises:
        ConfigError: there are fewer than two frames, or one cannot be read.
        MissingExtra: PyAV is not installed, which reads films.
    """
    from masactrl.pictures.input import read_picture

    if len(files) == 1 and is_film(files[0]):
        film = FilmReader(files[0])
        if film.count < 2:
            raise ConfigError(f"{files[0]} has one frame; an animation has 2 or more.")
        return Layout(
            kind=kind,
            pictures=PicturesWhenWanted(film.count, film.frame),
            stated=(stated_file(files[0]),),
        )
    if len(files) < 2:
        raise ConfigError(f"{len(files)} pictures of poses were given; an animation has 2 or more.")
    return Layout(
        kind=kind,
        pictures=PicturesWhenWanted(len(files), lambda number: read_picture(files[number])),
        stated=tuple(stated_file(one) for one in files if read_picture(one)),
    )
