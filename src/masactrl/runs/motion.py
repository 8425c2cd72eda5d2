"""The poses of an animation in words: a gait of the small world, or a folder of pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from masactrl.errors import ConfigError
from masactrl.runs.layout import LAYOUT, Layout, LayoutScale, LayoutUntil, layout_of_files
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check

__all__ = ["GAIT_NAMES", "MotionWords"]

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
            help=f"{', '.join(GAIT_NAMES)} of the embedded world, or a folder of pictures, one a "
            "frame in the order of their names.",
            metavar="GAIT|FOLDER",
            always=True,
        ),
    ] = "walk"
    frames: Annotated[
        int, Setting(help="How many frames of a gait, 2 to 1000.", low=2, high=1000)
    ] = 24
    fps: Annotated[
        float, Setting(help="Frames a second, above 0, up to 120.", above=0, high=120)
    ] = 12.0
    batch: Annotated[int, Setting(help="Frames at once, 1 and more.", low=1)] = 4
    kind: Annotated[
        str, Setting(help="What the pictures of a folder are, such as pose.", panel=LAYOUT)
    ] = "pose"
    layout_model: Annotated[
        str | None,
        Setting(
            help="The ControlNet or T2I-Adapter that reads them: a folder, a .safetensors file or "
            "a Hub id.",
            usual="the embedded model's own",
            panel=LAYOUT,
        ),
    ] = None
    layout_scale: LayoutScale = 1.0
    layout_until: LayoutUntil = 1.0

    def __post_init__(self) -> None:
        settle(self)
        check(self)

    def layout(self, prompt: str, size: int) -> Layout:
        """Return the frames' layouts.

        Args:
            prompt: of the target; of gaits it says which animal, and where it faces.
            size: side of drawn skeletons in pixels.

        Raises:
            ConfigError: there is no such gait and no such folder, a picture cannot be read, or the
                prompt names no animal.
        """
        made = self._gait(prompt, size) if self.poses in GAIT_NAMES else self._folder()
        return replace(
            made, model=self.layout_model, scale=self.layout_scale, end=self.layout_until
        )

    def _gait(self, prompt: str, size: int) -> Layout:
        from masactrl.puppets.captions import parse
        from masactrl.puppets.gaits import gait_skeletons

        said = parse(prompt)
        if said.species is None:
            raise ConfigError(
                f"The gaits are those of the embedded world's animals, and {prompt!r} names none; "
                "name one, or give a folder of poses."
            )
        drawn = gait_skeletons(
            self.poses,
            self.frames,
            species=said.species,
            facing=said.facing or "left",
            size=size,
        )
        return Layout(kind="pose", pictures=drawn)

    def _folder(self) -> Layout:
        folder = Path(self.poses)
        if not folder.is_dir():
            raise ConfigError(
                f"{self.poses!r} is no gait ({', '.join(GAIT_NAMES)}) and no folder of pictures."
            )
        files = sorted(one for one in folder.iterdir() if one.suffix.lower() in _PICTURES)
        if len(files) < 2:
            raise ConfigError(f"{folder} holds {len(files)} pictures; an animation has at least 2.")
        return layout_of_files(self.kind, files)
