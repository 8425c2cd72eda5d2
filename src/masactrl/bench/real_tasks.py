"""What `masactrl.bench.real` measures: drawn scenes, each with another action; and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from masactrl.errors import ConfigError
from masactrl.inversion import INVERSIONS, inversions_of
from masactrl.methods import METHODS
from masactrl.puppets.captions import full_prompt
from masactrl.puppets.scene import ACTIONS, Scene, sample_scenes
from masactrl.puppets.training.data import HELD_OUT_SEED
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BASELINES",
    "NEEDS_PROMPT",
    "RealRow",
    "RealSettings",
    "RealTask",
    "picture_path",
    "real_tasks",
]

BASELINES = ("doing nothing", "prompt only", "ground truth")
"""Rows that are always there."""

NEEDS_PROMPT = ("negative-prompt", "null-text", "edit-friendly", "virtual")
"""Inversions that mean little without the source's prompt; the others get none, as in the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRow:
    """How the edits of a row are made.

    Attributes:
        inversion: a name of `masactrl.inversion.INVERSIONS`.
        method: who controls the target.
        options: numbers of `InversionRequest` by name, its steps among them.
        away: weight of guidance away from what the picture shows (TurboEdit's pseudo-guidance), in
            place of the guidance of the run; None leaves that.
        fresh_noise: of the edit, see `EditRequest`.
    """

    inversion: str
    method: str = "masactrl"
    options: Mapping[str, int] = field(default_factory=dict)
    away: float | None = None
    fresh_noise: float = 0.0

    @classmethod
    def parse(cls, row: str) -> RealRow:
        """Return the row that is written INVERSION[+METHOD][:OPTION=NUMBER,...].

        Raises:
            ConfigError: there is no such inversion or method, or an option is no OPTION=NUMBER.
        """
        said, _, rest = row.partition(":")
        inversion, plus, method = said.partition("+")
        if inversion not in INVERSIONS:
            raise ConfigError(
                f"The inversion {inversion!r} is not known; accepted are {', '.join(INVERSIONS)}."
            )
        if plus and method not in METHODS:
            raise ConfigError(
                f"The method {method!r} is not known; accepted are {', '.join(METHODS)}."
            )
        options, shares = {}, {}
        for word in rest.split(",") if rest else ():
            option, sign, number = word.partition("=")
            try:
                if option in ("away", "fresh_noise"):
                    shares[option] = float(number)
                elif sign and option.isidentifier():
                    options[option] = int(number)
                else:
                    raise ValueError
            except ValueError:
                raise ConfigError(
                    f"{row!r} was given; write NAME:OPTION=NUMBER, fresh_steps=3 say."
                ) from None
        return cls(inversion=inversion, method=method or "masactrl", options=options, **shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSettings:
    """How pictures are edited.

    Attributes:
        inversions: a row each, see `RealRow.parse`: "direct", "virtual+unified:steps=8".
        count: pictures, at least 1.
        steps: of inversion and edit where a row says none; None is the model's.
        guidance: of the targets; None is the model's.
        start_step, start_layer: S and L; None is the model's.
        seed: of scenes and noise, 0 and more.
        pictures: of how many scenes pictures are kept, 0 and more.
    """

    inversions: tuple[str, ...] = inversions_of("diffusion")
    count: int = 200
    steps: int | None = None
    guidance: float | None = None
    start_step: int | None = None
    start_layer: int | None = None
    seed: int = 0
    pictures: int = 8

    def __post_init__(self) -> None:
        settle(self)
        for row in self.inversions:
            RealRow.parse(row)
        if len(set(self.inversions)) < len(self.inversions):
            raise ConfigError("An inversion is there twice; name each once.")
        for name, least in (("count", 1), ("seed", 0), ("pictures", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is {least} and more."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTask:
    """One scene and what it is edited to; both in the words of the model, too."""

    key: str
    source: Scene
    target: Scene

    @property
    def source_prompt(self) -> str:
        """What the picture shows."""
        return _prompt(self.source)

    @property
    def target_prompt(self) -> str:
        """What the edit is to show."""
        return _prompt(self.target)


def real_tasks(count: int, seed: int) -> tuple[RealTask, ...]:
    """Scenes from seeds that were never trained on, none a close-up; another action for each.

    Everything is drawn evenly. The first n of more tasks are the n tasks.
    """
    scenes = sample_scenes(count, seed=HELD_OUT_SEED + seed, close_up=0.0)
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for number, scene in enumerate(scenes):
        others = [action for action in ACTIONS if action != scene.pose.action]
        action = others[int(torch.randint(len(others), (), generator=generator))]
        tasks.append(RealTask(key=f"{number:04d}", source=scene, target=scene.acting(action)))
    return tuple(tasks)


def picture_path(folder: Path, task: str, row: str) -> Path:
    """Where the picture of a row is kept, where it is."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in row)
    return folder / "pictures" / f"{task}-{safe}.png"


def _prompt(scene: Scene) -> str:
    return full_prompt(
        scene.identity.species, scene.pose.action, scene.backdrop.place, scene.pose.facing
    )
