"""Recipes of the kind "animate": the command, and a frame or all of them again.

    {"run": {...}, "poses": "walk", "layout": {...}, "fps": 12.0, "batch": 4}

A frame is made again with those of its batch, so to the bit; the others are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from masactrl.errors import ConfigError
from masactrl.rerun.command_line import command_words, declared_options
from masactrl.rerun.generate import request_of, run_options
from masactrl.runs.layout import AskedLayout, Layout
from masactrl.runs.motion import GAIT_NAMES, MotionWords
from masactrl.runs.recipe import STRICT, Recipe, checked
from masactrl.studies.animate import ANIMATION, animate, frame_name

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import Given
    from masactrl.runs.request import GenerateRequest

__all__ = ["animate_again", "animate_steps", "animate_words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """An animation as a recipe tells it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT

    run: dict[str, Any]
    poses: str
    layout: AskedLayout
    fps: float
    batch: int

    def words(self, network: str | None) -> MotionWords:
        """Return what the command line would be told; ``network`` is what reads the poses."""
        return MotionWords(
            poses=PurePath(self.poses).name or "poses",
            frames=max(2, self.layout.files),
            fps=self.fps,
            batch=self.batch,
            kind=self.layout.kind,
            layout_model=network,
            layout_scale=self.layout.scale,
            layout_until=self.layout.end,
        )


def _asked(recipe: Recipe) -> tuple[_Asked, GenerateRequest]:
    asked = checked(_Asked, dict(recipe.request))
    return asked, request_of(asked.run)


def _drawn(asked: _Asked, request: GenerateRequest, given: Given) -> Layout:
    if asked.poses in GAIT_NAMES and not given.inputs:
        words = asked.words(asked.layout.network(given.networks))
        return words.layout(request.target_prompts[0], request.height or 256)
    if len(given.inputs) != asked.layout.files:
        raise ConfigError(
            f"The animation was made from {asked.layout.files} pictures of poses; give all of them."
        )
    return asked.layout.drawn(given.inputs, given.networks)


def animate_again(model: LoadedModel, recipe: Recipe, given: Given) -> Mapping[str, Image.Image]:
    """Make the source and the frames again that the recipe's picture needs, by name."""
    asked, request = _asked(recipe)
    frame = re.fullmatch(r"frame(\d{4,})", recipe.picture)
    chosen = None if recipe.picture == ANIMATION else [0]
    if frame is not None:
        chosen = [(int(frame[1]) - 1) // asked.batch]
    result = animate(
        model,
        request,
        _drawn(asked, request, given),
        fps=asked.fps,
        batch=asked.batch,
        words=asked.poses,
        only=chosen,
        on_step=given.on_step,
    )
    first = 1 if chosen is None else chosen[0] * asked.batch + 1
    frames = {frame_name(first + k): one for k, one in enumerate(result.frames)}
    return MappingProxyType({"source": result.source, **frames, ANIMATION: result.to_sheet()})


def animate_steps(recipe: Recipe) -> int:
    """Return the denoising steps of what is made again, at most."""
    asked, request = _asked(recipe)
    batches = -(-asked.layout.files // asked.batch) if recipe.picture == ANIMATION else 1
    return (request.steps or 1) * (1 + batches)


def animate_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl animate`."""
    asked, request = _asked(recipe)
    options = [*run_options(request), *declared_options(asked.words(asked.layout.model))]
    return command_words("animate", [request.source_prompt], options)
