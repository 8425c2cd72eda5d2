"""PuppetBench's tasks: a fixed, seeded set of non-rigid edits whose right answer is known.

600 tasks, half with a source that the model makes from a prompt (synthesised), half with a source
that is drawn exactly (rendered). Two thirds are for reporting, one third for choosing settings.
In every six tasks three ask for another action, one each for the other facing, for looking back,
and for a close-up, so that the first n tasks of a split are as mixed as all of them.

Beside them are 600 tasks of the kind "layout", which only who asks for that kind gets: poses that
words cannot say, joints bent far and bodies between two actions, on the other side of the picture.
Words name the nearest action; the target's layout is the skeleton of its pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import torch

from masactrl.errors import ConfigError
from masactrl.puppets.captions import full_prompt
from masactrl.puppets.posed import nearest_action, sample_posed
from masactrl.puppets.scene import ACTIONS, FACINGS, Camera, Pose, Scene, sample_scene

__all__ = [
    "KINDS",
    "LAYOUT",
    "TASKS",
    "Half",
    "Kind",
    "PuppetTask",
    "Split",
    "halves_of",
    "puppet_tasks",
]

Kind = Literal["action", "facing", "look back", "close-up", "layout"]
KINDS: tuple[Kind, ...] = ("action", "facing", "look back", "close-up")
"""Kinds of the 600 tasks, which are all that is run where no kind is named."""
LAYOUT: Kind = "layout"
Split = Literal["tuning", "reporting"]
Half = Literal["synthesised", "rendered"]
TASKS = 600

_CYCLE: tuple[Kind, ...] = ("action", "facing", "action", "look back", "action", "close-up")
_SEED = 20230417  # never change it: published figures are of this set


@dataclass(frozen=True, slots=True, kw_only=True)
class PuppetTask:
    """One edit.

    Attributes:
        key: its name in files.
        kind, half, split: see the head of this file.
        source: the source's scene. Of the synthesised half only species, action, facing and place
            are told to the model; coat and collar are what the model makes of them.
        target: the scene of a right answer; others differ in pose jitter and position.
        source_prompt, target_prompt: what the model is told.
        noise_seed: of the start noise, for the first of several seeds.
    """

    key: str
    kind: Kind
    half: Half
    split: Split
    source: Scene
    target: Scene
    source_prompt: str
    target_prompt: str
    noise_seed: int


def puppet_tasks(
    split: Split, half: Half, *, limit: int | None = None, kinds: Sequence[str] | None = None
) -> tuple[PuppetTask, ...]:
    """The tasks of a split and a half, always in the same order.

    Args:
        split: "tuning" or "reporting".
        half: "synthesised" or "rendered".
        limit: only the first so many, at least 1.
        kinds: only these kinds; None is `KINDS`.

    Raises:
        ConfigError: a name is unknown, or no task would be left.
    """
    for name, value, known in (
        ("split", split, ("tuning", "reporting")),
        ("half", half, ("synthesised", "rendered")),
        *(("kind", kind, get_args(Kind)) for kind in kinds or ()),
    ):
        if value not in known:
            raise ConfigError(f"{name}={value!r} was given; accepted are {', '.join(known)}.")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} was given; use 1 or more.")
    chosen = [
        task
        for task in _all_tasks()
        if task.split == split and task.half == half and task.kind in (kinds or KINDS)
    ]
    return tuple(chosen[:limit])


def halves_of(
    split: str, half: str, *, limit: int | None = None, kinds: Sequence[str] | None = None
) -> tuple[PuppetTask, ...]:
    """The tasks of a split, of one half or of "both", each limited alone; see `puppet_tasks`.

    Raises:
        ConfigError: a name is unknown, or no task would be left.
    """
    if half not in (*get_args(Half), "both"):
        accepted = ", ".join((*get_args(Half), "both"))
        raise ConfigError(f"half={half!r} was given; accepted are {accepted}.")
    chosen = get_args(Half) if half == "both" else (half,)
    found = [puppet_tasks(split, one, limit=limit, kinds=kinds) for one in chosen]  # type: ignore[arg-type]
    return tuple(task for tasks in found for task in tasks)


@cache
def _all_tasks() -> tuple[PuppetTask, ...]:
    tasks = []
    for number in range(2 * TASKS):
        generator = torch.Generator().manual_seed(_SEED + number)
        # Whole cycles go to a half and a split, so that each keeps the mixture of kinds.
        cycle = number // len(_CYCLE)
        half: Half = "synthesised" if cycle % 2 == 0 else "rendered"
        split: Split = "tuning" if cycle // 2 % 3 == 0 else "reporting"
        kind = _CYCLE[number % len(_CYCLE)] if number < TASKS else LAYOUT
        source, target = _scenes(kind, generator)
        tasks.append(
            PuppetTask(
                key=f"{half[0]}{number:03d}-{kind.replace(' ', '-')}",
                kind=kind,
                half=half,
                split=split,
                source=source,
                target=target,
                source_prompt=_prompt(source),
                target_prompt=_prompt(target),
                noise_seed=_SEED + TASKS + number * 64,
            )
        )
    return tuple(tasks)


def _scenes(kind: Kind, generator: torch.Generator) -> tuple[Scene, Scene]:
    """Source and target of one task; the source is never a close-up."""

    def pick(options: Sequence[str]) -> str:
        return options[int(torch.randint(len(options), (), generator=generator))]

    if kind == LAYOUT:
        return _posed(generator)
    source = sample_scene(generator, close_up=0.0)
    action, facing = source.pose.action, source.pose.facing
    if kind == "action":
        others = [one for one in ACTIONS if one not in (action, "looking back")]
        return source, source.acting(pick(others))
    if kind == "facing":
        return source, source.acting(facing=FACINGS[1 - FACINGS.index(facing)])
    if kind == "look back":
        source = source.acting("standing") if action == "looking back" else source
        return source, source.acting("looking back")
    return source, replace(source, camera=Camera(shot="close-up", offset=source.camera.offset))


def _posed(generator: torch.Generator) -> tuple[Scene, Scene]:
    """A scene that stands, and its animal in a pose of no words, beyond the picture's middle."""
    target = sample_posed(generator)
    while target.camera.shot != "full body" or not _beyond(target.pose):
        target = sample_posed(generator)
    x, y, scale = target.camera.offset
    pose = Pose(action="standing", facing=target.pose.facing)
    camera = Camera(offset=(-min(1.0, max(-1.0, x)), y, scale))
    return replace(target, pose=pose, camera=camera), target


def _beyond(pose: Pose) -> bool:
    """Whether it is between two actions, or bent farther than in the model's training."""
    return pose.towards is not None or max(map(abs, pose.jitter)) > 1


def _prompt(scene: Scene) -> str:
    words = full_prompt(
        scene.identity.species,
        nearest_action(scene.pose),
        scene.backdrop.place,
        scene.pose.facing,
    )
    return f"close-up of {words}" if scene.camera.shot == "close-up" else words
