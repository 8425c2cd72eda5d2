"""Recipes of the kind "animate": the command, and a frame or all of them again.

    {"of": "generate", "run": {...}, "poses": "walk", "layout": {...}, "fps": 12.0, "batch": 4,
     "first_frame": false}

A frame is made again with those of its batch, so to the bit; the others are left alone. Of a
picture that was inverted ("of" is "edit") the first input is the picture, the others are those of
the poses, or their film.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.errors import ConfigError
from masactrl.pictures.films import is_film
from masactrl.rerun.command_line import command_words, declared_flags, declared_options
from masactrl.rerun.edit import edit_of, study_options
from masactrl.rerun.generate import request_of, run_options
from masactrl.rerun.layouts import AskedLayout
from masactrl.runs.motion import GAIT_NAMES, MotionWords, layout_of_frames
from masactrl.runs.recipe import STRICT, Recipe, checked
from masactrl.studies.animate import ANIMATION, animate, frame_name

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs
    from masactrl.runs.layout import Layout
    from masactrl.studies.source import Request, Source

__all__ = ["animate_steps", "animate_words", "plain_animation", "rerun_animate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """An animation as a recipe tells it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT

    run: dict[str, Any]
    poses: str
    layout: AskedLayout
    fps: float
    batch: int
    of: Literal["generate", "edit"] = "generate"
    first_frame: bool = False

    @property
    def prompt(self) -> str:
        """What every frame shows."""
        prompts = self.run.get("target_prompts")
        if not isinstance(prompts, list) or len(prompts) != 1 or not isinstance(prompts[0], str):
            raise ConfigError("The recipe cannot be used: an animation has one target prompt.")
        return prompts[0]

    def words(self, network: str | None) -> MotionWords:
        """Return what the command line would be told; ``network`` is what reads the poses."""
        return MotionWords(
            poses=PurePath(self.poses).name or "poses",
            frames=max(2, self.layout.files),
            fps=self.fps,
            batch=self.batch,
            kind=self.layout.kind,
            first_frame=self.first_frame,
            layout_model=() if network is None else (f"{self.layout.kind}={network}",),
            layout_scale=self.layout.scale,
            layout_until=self.layout.end,
        )

    def drawn(self, files: tuple[Path, ...], networks: Mapping[str, str]) -> Layout:
        """Return the layouts of the frames: those of a gait again, or the pictures of files."""
        if self.poses in GAIT_NAMES and not files:
            words = self.words(self.layout.network(networks))
            return words.layout(self.prompt, self.run.get("height") or 256)
        if len(files) == 1 and is_film(files[0]):
            made = layout_of_frames(self.layout.kind, files)
            if len(made.pictures) != self.layout.files:
                raise ConfigError(
                    f"The animation was made from a film of {self.layout.files} frames, and "
                    f"{files[0]} has {len(made.pictures)}; give that film."
                )
            return self.layout.acting(made, networks)
        if len(files) != self.layout.files:
            raise ConfigError(
                f"The animation was made from {self.layout.files} poses; give all their pictures, "
                "or their film."
            )
        return self.layout.drawn(files, networks)


def plain_animation(recipe: Recipe) -> tuple[Recipe, MotionWords]:
    """Return the recipe of the plain run that every frame is, and what is said of the frames."""
    asked = checked(_Asked, dict(recipe.request))
    own = recipe.inputs[: 1 if asked.of == "edit" else 0]
    plain = replace(
        recipe, kind=asked.of, picture="target1-controlled", request=asked.run, inputs=own
    )
    return plain, asked.words(asked.layout.model)


def rerun_animate(
    model: LoadedModel, recipe: Recipe, given: RerunInputs
) -> Mapping[str, Image.Image]:
    """Make the source and the frames again that the recipe's picture needs, by name."""
    asked = checked(_Asked, dict(recipe.request))
    frame = re.fullmatch(r"frame(\d{4,})", recipe.picture)
    chosen = None if recipe.picture == ANIMATION else [0]
    if frame is not None:
        chosen = [(int(frame[1]) - 1) // asked.batch]
    own: dict[str, Any] = {"fps": asked.fps, "batch": asked.batch, "words": asked.poses}
    own |= {"only": chosen, "on_step": given.on_step, "first_frame": asked.first_frame}
    source: Source = model
    request: Request
    files: Sequence[Path] = given.inputs
    if asked.of == "edit":
        from masactrl.runs.invert import invert

        picture, *files = given.inputs
        inversion, request, _ = edit_of(plain_animation(recipe)[0])
        source = invert(model, picture, inversion, on_step=given.on_step)
    else:
        request = request_of(asked.run)
    result = animate(source, request, asked.drawn(tuple(files), given.networks), **own)
    first = 1 if chosen is None else chosen[0] * asked.batch + 1
    frames = {frame_name(first + k): one for k, one in enumerate(result.frames)}
    return MappingProxyType({"source": result.source, **frames, ANIMATION: result.to_sheet()})


def animate_steps(recipe: Recipe) -> int:
    """Return the denoising steps of what is made again, at most."""
    asked = checked(_Asked, dict(recipe.request))
    batches = -(-asked.layout.files // asked.batch) if recipe.picture == ANIMATION else 1
    steps = asked.run.get("steps")
    # Inversion, recording and the first frame, or the source.
    before = 2 + asked.first_frame if asked.of == "edit" else 1
    return (steps if isinstance(steps, int) else 1) * (before + batches)


def animate_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl animate`."""
    plain, motion = plain_animation(recipe)
    flags, options = declared_flags(motion), declared_options(motion)
    if plain.kind == "generate":
        request = request_of(plain.request)
        source, run = request.source_prompt, run_options(request)
    else:
        inversion, _, _ = edit_of(plain)
        source = PurePath(plain.inputs[0].name).name or "picture"
        run = study_options(plain)
        foreign = [*declared_flags(inversion), *(name for name, _ in run if name in _FOREIGN)]
        if foreign:
            raise ConfigError(
                f"The animation was made with {foreign[0]}, for which `masactrl animate` has no "
                "option; `masactrl rerun` makes the picture again."
            )
    words = command_words("animate", [source], [*run, *options])
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *flags, *words[at:]]


_FOREIGN = ("source_cfg", "iterations", "fresh_steps", "noise_shift", "keep", "fit", "mode")
"""Options of edits that `masactrl animate` does not have."""
