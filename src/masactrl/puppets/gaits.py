"""Gaits of the small world: skeletons of a walk, a run, a jump, a sitting down, frame by frame."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from masactrl.errors import ConfigError
from masactrl.pictures.images import tensor_to_images
from masactrl.puppets.posed import draw_skeletons
from masactrl.puppets.renderer import keypoints_of
from masactrl.puppets.scene import (
    COLOURS,
    JITTERS,
    PROPORTIONS,
    Backdrop,
    Identity,
    Pose,
    Scene,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["GAITS", "gait_scenes", "gait_skeleton"]

GAITS: Final = ("walk", "run", "jump", "sit")
_LEGS: Final = (1, 2, 3, 4)  # near hind, far hind, near front, far front, see `scene.Pose`
_TROT: Final = (0.5, 0.0, 0.0, 0.5)  # turns by which they lag: diagonal pairs swing together
_GALLOP: Final = (0.0, 0.1, 0.5, 0.6)
_SWING: Final = 4.5  # of a walking leg, in units of 5 degrees
_REACH: Final = 6.0  # of a running one


def gait_scenes(gait: str, frames: int, *, species: str, facing: str) -> tuple[Scene, ...]:
    """The scenes of a gait: one cycle of a walk or a run, one jump, one sitting down.

    Args:
        gait: one of `GAITS`.
        frames: how many, at least 2.
        species, facing: as in `masactrl.puppets.scene`.

    Raises:
        ConfigError: a name is not known, or there are too few frames.
    """
    if gait not in GAITS:
        raise ConfigError(f"{gait!r} is no gait; there are {', '.join(GAITS)}.")
    if frames < 2:
        raise ConfigError(f"frames={frames} was given; an animation has at least 2.")
    animal = Identity(
        species=species,
        proportions=(1.0,) * PROPORTIONS,
        coat=COLOURS["grey"],
        accent=COLOURS["white"],
        pattern="plain",
        frequency=1.0,
        phase=0.0,
        angle=0.0,
        collar=None,
    )
    standing = Scene(
        identity=animal,
        pose=Pose(action="standing", facing=facing),
        backdrop=Backdrop(place="snow"),
    )
    cyclic = gait in ("walk", "run")
    turns = [k / frames if cyclic else k / (frames - 1) for k in range(frames)]
    return tuple(replace(standing, pose=_pose(gait, turn, facing)) for turn in turns)


def _pose(gait: str, turn: float, facing: str) -> Pose:
    """The pose after a part of the way, in [0, 1]."""
    if gait == "walk":
        return Pose(action="standing", facing=facing, jitter=_swung(turn, _TROT, _SWING))
    if gait == "run":
        return Pose(action="running", facing=facing, jitter=_swung(turn, _GALLOP, _REACH))
    if gait == "jump":  # up and down again
        share = math.sin(math.pi * turn)
        return Pose(action="standing", facing=facing, towards="jumping", share=share)
    share = (1 - math.cos(math.pi * turn)) / 2
    return Pose(action="standing", facing=facing, towards="sitting", share=share)


def _swung(turn: float, lags: tuple[float, ...], most: float) -> tuple[float, ...]:
    jitter = [0.0] * JITTERS
    for leg, lag in zip(_LEGS, lags, strict=True):
        jitter[leg] = most * math.sin(2 * math.pi * (turn + lag))
    jitter[7] = 1.5 * math.sin(2 * math.pi * turn)  # the tail
    return tuple(jitter)


def gait_skeleton(
    gait: str, frames: int, number: int, *, species: str, facing: str, size: int
) -> Image.Image:
    """The skeleton of frame ``number``, from 0, of ``size`` pixels a side; see `gait_scenes`."""
    scene = gait_scenes(gait, frames, species=species, facing=facing)[number]
    (drawn,) = tensor_to_images(draw_skeletons(keypoints_of([scene], size), size), signed=False)
    return drawn
