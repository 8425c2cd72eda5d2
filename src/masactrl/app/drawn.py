"""Drawn animals of the embedded world, so that somebody without a photo can try an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["drawn_examples"]

_SEED = 1_000_120  # held-out scenes: the model never saw them
_SCENES = 12
_ASKED = ((4, "standing"), (7, "jumping"), (8, "running"), (11, "sitting"))
"""Which of the scenes, and what their animals are to do."""


def drawn_examples(folder: Path) -> list[list[str]]:
    """Draw scenes into a folder; returns the path, what it shows, and what to ask for, of each."""
    from masactrl.pictures.images import tensor_to_image
    from masactrl.puppets.captions import full_prompt
    from masactrl.puppets.renderer import render
    from masactrl.puppets.scene import sample_scenes

    folder.mkdir(parents=True, exist_ok=True)
    scenes = sample_scenes(_SCENES, seed=_SEED, close_up=0.0)
    found = []
    for number, action in _ASKED:
        scene = scenes[number]
        who, where = scene.identity.species, scene.backdrop.place
        path = folder / f"{who}-{number}.webp"
        tensor_to_image(render([scene], 256).image[0], signed=False).save(path, lossless=True)
        shown = full_prompt(who, scene.pose.action, where, scene.pose.facing)
        found.append([str(path), shown, full_prompt(who, action, where, scene.pose.facing)])
    return found
