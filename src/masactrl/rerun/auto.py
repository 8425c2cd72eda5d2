"""Recipes of the kind "auto": the grid that S and L were chosen from, with the judge's scores.

    {"axes": {"start_step": [2, 4], "start_layer": [8, 10]}, "run": {...},
     "scores": [[2, 8, "0.41"], [4, 10, "0.71, chosen"], ...], "judges": {"judge_clip": "..."}}

Pictures are made again, scores are repeated: they are the judge's, who may be anything that Python
can write. The command asks the judge anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.rerun.edit import edit_words
from masactrl.rerun.sweep import SWEPT, plain_recipe, sweep_grid, sweep_steps
from masactrl.runs.recipe import Recipe, checked
from masactrl.studies.auto import AUTO, CHOSEN
from masactrl.studies.sweep_result import SWEEP

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs

__all__ = ["auto_steps", "auto_words", "chosen_run", "rerun_auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A choice as a recipe tells it; axes and run are those of a sweep."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = MappingProxyType({"extra": "forbid"})

    axes: dict[str, Any]
    run: dict[str, Any]
    scores: tuple[tuple[int, int, str], ...]
    judges: dict[Literal["judge_clip", "judge_dino"], str]


def _sweep(recipe: Recipe, asked: _Asked) -> Recipe:
    """Return the recipe of the grid alone."""
    request = {"of": "edit", "axes": asked.axes, "run": asked.run}
    return replace(recipe, kind="sweep", picture=SWEEP, request=request)


def _asked(recipe: Recipe) -> _Asked:
    return checked(_Asked, dict(recipe.request))


def chosen_run(recipe: Recipe) -> Recipe:
    """Return the recipe of the plain edit with the S and L that were chosen."""
    asked = _asked(recipe)
    cells = [(s, layer) for s, layer, words in asked.scores if words.endswith(CHOSEN)]
    plain = plain_recipe(_sweep(recipe, asked))
    if not cells:
        return plain
    start_step, start_layer = cells[0]
    own = {"start_step": start_step, "start_layer": start_layer}
    return replace(plain, request={**plain.request, **own})


def rerun_auto(model: LoadedModel, recipe: Recipe, given: RerunInputs) -> Mapping[str, Image.Image]:
    """Make the grid again, and return the figure with the recipe's scores under its name."""
    asked = _asked(recipe)
    result = sweep_grid(model, _sweep(recipe, asked), given)
    return {AUTO: result.to_sheet({(s, layer): words for s, layer, words in asked.scores})}


def auto_steps(recipe: Recipe) -> int:
    """Return the denoising steps of the grid, at most."""
    return sweep_steps(_sweep(recipe, _asked(recipe)))


def auto_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl edit --auto`."""
    asked = _asked(recipe)
    flags = ["--auto"]
    for name, value in sorted(asked.judges.items()):
        flags.append(f"--{name.replace('_', '-')}={value}")
    return edit_words(plain_recipe(_sweep(recipe, asked)), leave=SWEPT, flags=flags)
