"""Measures of the animals and angles of their actions: the data behind `anatomy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from masactrl.puppets.scene import ACTIONS

#: Measure -> one value per species in the order of `scene.SPECIES`; lengths and radii in body
#: units, angles in degrees above the horizontal.
MEASURES: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        # cat, dog, fox, rabbit, horse, elephant, bear, giraffe
        "trunk": (0.8, 0.86, 0.86, 0.52, 1.02, 1.02, 0.96, 0.82),  # pelvis to chest
        "chest": (0.195, 0.225, 0.185, 0.19, 0.25, 0.39, 0.32, 0.24),
        "hips": (0.19, 0.19, 0.17, 0.27, 0.245, 0.37, 0.34, 0.2),
        "leg": (0.5, 0.58, 0.47, 0.36, 0.84, 0.68, 0.5, 0.92),
        "leg_width": (0.068, 0.078, 0.056, 0.07, 0.078, 0.145, 0.13, 0.068),
        "neck": (0.2, 0.28, 0.22, 0.13, 0.56, 0.24, 0.26, 1),
        "neck_angle": (50, 52, 42, 50, 50, 30, 24, 64),  # degrees above the horizontal
        "neck_width": (0.13, 0.13, 0.12, 0.14, 0.15, 0.24, 0.21, 0.105),
        "head": (0.195, 0.175, 0.165, 0.19, 0.155, 0.27, 0.235, 0.135),
        "muzzle": (0.11, 0.27, 0.28, 0.1, 0.38, 0.85, 0.2, 0.26),
        "muzzle_width": (0.095, 0.095, 0.06, 0.105, 0.095, 0.085, 0.12, 0.08),
        "muzzle_drop": (-12, -8, -14, -10, -42, -45, -14, -28),
        "hose": (0, 0, 0, 0, 0, 1, 0, 0),  # 1: the muzzle is a trunk that hangs down
        "ear": (0.2, 0.26, 0.25, 0.5, 0.15, 0.34, 0.13, 0.14),
        "ear_width": (0.085, 0.075, 0.095, 0.07, 0.05, 0.23, 0.09, 0.045),
        "ear_angle": (78, -105, 82, 104, 80, -115, 100, 150),  # below 0: hanging
        "ear_tip": (  # radius relative to the base: 0 pointed, 1 round
            0.15,
            0.9,
            0.05,
            0.8,
            0.1,
            1,
            1,
            0.3,
        ),
        "tail": (0.78, 0.5, 0.85, 0.1, 0.72, 0.45, 0.07, 0.5),
        "tail_base": (0.055, 0.06, 0.06, 0.1, 0.06, 0.035, 0.07, 0.035),
        "tail_middle": (0.05, 0.05, 0.165, 0.12, 0.1, 0.03, 0.07, 0.03),
        "tail_tip": (0.045, 0.03, 0.04, 0.1, 0.05, 0.045, 0.07, 0.065),
        "tail_angle": (35, 48, -18, 20, -55, -50, 10, -62),
        "tail_bend": (60, 40, 22, 0, -20, -20, 0, -10),
        "mane": (0, 0, 0, 0, 0.085, 0, 0, 0.05),  # radius, 0: none
        "horn": (0, 0, 0, 0, 0, 0, 0, 0.15),  # length, 0: none
    }
)


@dataclass(frozen=True, slots=True)
class Action:
    """Angles of one action in degrees.

    ``spine`` and ``neck`` (relative to the species) above the horizontal; ``head`` relative to the
    species' muzzle drop; legs as (upper, lower) measured from straight down, positive forward.
    ``fold`` scales hind legs, ``front_fold`` front legs, ``plant`` stretches the front legs until
    they reach the ground. ``sits``, ``grazes``, ``trumpets`` (trunk up), ``turned`` (head back) are
    solved for in `skeleton`.
    """

    spine: float
    neck: float
    head: float
    near_front: tuple[float, float]
    far_front: tuple[float, float]
    near_hind: tuple[float, float]
    far_hind: tuple[float, float]
    tail: float
    lift: float = 0.0
    fold: float = 1.0
    front_fold: float = 1.0
    plant: bool = False
    turned: bool = False
    sits: bool = False
    grazes: bool = False
    trumpets: bool = False


POSES: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "standing": Action(0, 0, 0, (3, -3), (16, 8), (10, -14), (-6, -20), 0, plant=True),
        "sitting": Action(
            0, 8, 2, (2, -2), (12, 4), (84, -58), (98, -50), -50, fold=0.62, plant=True, sits=True
        ),
        "running": Action(4, -14, 0, (66, 40), (-32, -84), (-46, -62), (52, 4), 12, lift=0.04),
        "jumping": Action(
            26, -8, -6, (74, -28), (92, -8), (-44, -40), (-26, -58), -12, lift=0.50, trumpets=True
        ),
        "lying": Action(
            3, 10, 0, (70, 94), (84, 88), (86, -76), (100, -70), -22, fold=0.6, front_fold=0.8
        ),
        "rearing": Action(64, -20, -6, (82, 8), (56, -34), (8, -16), (26, -2), -48, trumpets=True),
        "grazing": Action(
            -9, 0, 0, (10, 0), (26, 14), (8, -12), (-8, -22), 0, plant=True, grazes=True
        ),
        "looking back": Action(
            2, 34, 4, (3, -3), (16, 8), (10, -14), (-6, -20), 6, plant=True, turned=True
        ),
    }
)

if set(POSES) != set(ACTIONS):  # a new action needs its angles
    raise RuntimeError("POSES does not match the names in masactrl.puppets.scene")
