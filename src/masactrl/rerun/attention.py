"""Recipes of the kind "attention": the run that was watched, and the points that were asked for.

    {"of": "edit", "points": [[40.0, 52.0]], "target": 1, "step": null, "layer": 13, "run": {...}}

`run` is the request of the recipe whose pictures were watched, its inputs are those of this recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.errors import ConfigError
from masactrl.rerun.command_line import command_words
from masactrl.rerun.edit import edit_steps, source_to_run
from masactrl.rerun.generate import generate_steps
from masactrl.runs.recipe import Recipe, checked
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs
    from masactrl.studies.attention import AttentionView

__all__ = [
    "ATTENTION",
    "Question",
    "attention_recipe",
    "attention_steps",
    "attention_words",
    "question_of",
    "rerun_attention",
    "rerun_watched",
    "watched_run",
]

ATTENTION = "attention"
"""RecipeKind of the recipe and name of the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a run that is made again.

    Attributes:
        of: kind of the recipe of the run.
        run: its request.
        points: (x, y) in pixels of the target, at least one.
        target: which, 1 for the first.
        step, layer: one of the controlled ones; None is the mean over all.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = MappingProxyType({"extra": "forbid"})

    of: Literal["generate", "edit"]
    run: dict[str, Any]
    points: tuple[tuple[float, float], ...]
    target: int = 1
    step: int | None = None
    layer: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        if not self.points or not all(math.isfinite(one) for point in self.points for one in point):
            raise ConfigError("There is no point to look from; give x and y in pixels.")


def attention_recipe(
    recipe: Recipe,
    points: Sequence[tuple[float, float]],
    *,
    target: int = 1,
    step: int | None = None,
    layer: int | None = None,
) -> Recipe:
    """Return the recipe of the figure that shows where points of a picture looked.

    Args:
        recipe: of any picture of the run.
        points, target, step, layer: see `Question`.

    Raises:
        ConfigError: the recipe is of a run whose targets cannot be watched.
    """
    if recipe.kind not in ("generate", "edit"):
        raise ConfigError(
            f"The picture is of a run of {recipe.kind!r}; where points look can be shown for "
            "pictures that generate or edit made."
        )
    return replace(
        recipe,
        kind=ATTENTION,
        picture=ATTENTION,
        request={
            "of": recipe.kind,
            "points": [list(point) for point in points],
            "target": target,
            "step": step,
            "layer": layer,
            "run": dict(recipe.request),
        },
    )


def question_of(recipe: Recipe) -> Question:
    """Return what a recipe of the kind "attention" asks.

    Raises:
        ConfigError: it asks nothing that can be.
    """
    return checked(Question, dict(recipe.request))


def rerun_watched(model: LoadedModel, recipe: Recipe, given: RerunInputs) -> AttentionView:
    """Make the run again and return it watched, only where the question needs it.

    Args:
        model: that made it.
        recipe: of the kind "attention".
        given: inputs and progress.

    Raises:
        ConfigError: the run cannot be made again, or its targets look into no source.
        ScheduleError: that step or layer is not controlled.
    """
    from masactrl.studies.attention import run_watched

    asked = question_of(recipe)
    source, request = source_to_run(model, watched_run(recipe), given)
    _check_target(asked.target, len(request.target_prompts))
    steps = None if asked.step is None else [asked.step]
    layers = None if asked.layer is None else [asked.layer]
    _, view = run_watched(source, request, steps=steps, layers=layers, on_step=given.on_step)
    return view


def rerun_attention(
    model: LoadedModel, recipe: Recipe, given: RerunInputs
) -> Mapping[str, Image.Image]:
    """Make the run again and return the figure under its name."""
    asked = question_of(recipe)
    view = rerun_watched(model, recipe, given)
    figure = view.figure(*asked.points, target=asked.target - 1, step=asked.step, layer=asked.layer)
    return {ATTENTION: figure}


def attention_steps(recipe: Recipe) -> int:
    """Return the denoising steps of the run, at most."""
    run = watched_run(recipe)
    return generate_steps(run) if run.kind == "generate" else edit_steps(run)


def attention_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl attention`, on the picture of the target."""
    asked = question_of(recipe)
    options = [("at", f"{x:g},{y:g}") for x, y in asked.points]
    for name, value in (("step", asked.step), ("layer", asked.layer)):
        options += [] if value is None else [(name, str(value))]
    options += [("input", one.name.replace("\\", "/").rpartition("/")[2]) for one in recipe.inputs]
    return command_words(ATTENTION, [f"target{asked.target}-controlled.png"], options)


def watched_run(recipe: Recipe) -> Recipe:
    """Return the recipe of the run that is watched."""
    asked = question_of(recipe)
    return replace(recipe, kind=asked.of, picture="sheet", request=asked.run)


def _check_target(target: int, count: int) -> None:
    if not 1 <= target <= count:
        raise ConfigError(f"Target {target} was asked for; the run has targets 1 to {count}.")
