"""Recipes of the kind "compare": the command, and the comparison itself.

A comparison of a photograph is told by its inversion; all else that it was asked for stands as in
recipes of the kind "edit".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError
from masactrl.rerun.command_line import command_words, declared_flags
from masactrl.rerun.edit import edit_of, input_names, source_to_run, study_options
from masactrl.rerun.generate import layout_words, request_of, run_options
from masactrl.settings.shared import json_word
from masactrl.studies.compare import compare

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs
    from masactrl.runs.recipe import Recipe
    from masactrl.runs.request import GenerateRequest

__all__ = ["compare_steps", "compare_words", "comparison_of", "edit_in", "rerun_compare"]

Options = dict[str, dict[str, Any]]

_FOREIGN = (
    *("source_cfg", "iterations", "fresh_steps", "noise_shift"),
    *("form", "strength", "mode", "keep", "fit"),
)
"""Options of edits that `masactrl compare` does not have."""


def _of_photo(recipe: Recipe) -> bool:
    return "inversion" in recipe.request


def _run(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says of the plain run that is compared."""
    return {name: one for name, one in recipe.request.items() if name not in ("methods", "options")}


def edit_in(recipe: Recipe) -> tuple[Recipe, int]:
    """Return the recipe of masactrl's edit in a comparison, and the seed of methods that draw."""
    values = _run(recipe)
    seed = values.pop("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError("The recipe cannot be used: its seed is no number.")
    return replace(recipe, kind="edit", request={**values, "seed": None}), seed


def comparison_of(recipe: Recipe) -> tuple[GenerateRequest, tuple[str, ...], Options]:
    """Return the request of a recipe, the methods and their options."""
    request = request_of(_run(recipe))
    if len(request.target_prompts) != 1:
        raise ConfigError("The recipe cannot be used: it compares no methods on one target.")
    return request, *_methods(recipe)


def _methods(recipe: Recipe) -> tuple[tuple[str, ...], Options]:
    """Return the methods of a recipe and their options."""
    methods, options = recipe.request.get("methods"), recipe.request.get("options", {})
    if not (isinstance(methods, list) and methods and all(isinstance(one, str) for one in methods)):
        raise ConfigError("The recipe cannot be used: it compares no methods on one target.")
    if not isinstance(options, dict) or not all(isinstance(one, dict) for one in options.values()):
        raise ConfigError("The recipe cannot be used: the options of its methods are damaged.")
    frozen = {
        method: {name: _frozen(value) for name, value in given.items()}
        for method, given in options.items()
    }
    return tuple(methods), frozen


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def compare_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl compare`."""
    if _of_photo(recipe):
        return _photo_words(recipe)
    request, _, _ = comparison_of(recipe)
    words = [("to", request.target_prompts[0]), *_method_words(recipe)]
    # S and L are masactrl's, which is one of the methods.
    words += [one for one in run_options(request) if one[0] != "to"]
    words += layout_words(recipe)
    return command_words("compare", [request.source_prompt], words)


def _method_words(recipe: Recipe) -> list[tuple[str, str]]:
    methods, options = _methods(recipe)
    words = [("method", one) for one in methods]
    for method, given in options.items():
        words += [
            ("method_option", f"{method}.{name}={json_word(value)}")
            for name, value in given.items()
        ]
    return words


def _photo_words(recipe: Recipe) -> list[str]:
    edit, seed = edit_in(recipe)
    inversion, _, masks = edit_of(edit)
    asked = study_options(edit)
    foreign = [name.replace("_", "-") for name, _ in asked if name in _FOREIGN]
    foreign += [flag.removeprefix("--") for flag in declared_flags(inversion)]
    foreign += ["masks"] if masks is not None else []
    if foreign or inversion.seed not in (None, seed):
        what = ", ".join(foreign) or "two seeds"
        raise ConfigError(
            f"The comparison was made with {what}, for which its command line has no word; "
            "`masactrl rerun` makes the picture again."
        )
    options = [one for one in asked if one[0] != "seed"]
    options += [("seed", str(seed)), *_method_words(recipe), *layout_words(recipe, 1)]
    return command_words("compare", [input_names(recipe)[0]], options)


def rerun_compare(
    model: LoadedModel, recipe: Recipe, given: RerunInputs
) -> Mapping[str, Image.Image]:
    """Make the comparison again, and return all pictures by name."""
    plain, seed = edit_in(recipe)
    if not _of_photo(recipe):
        comparison_of(recipe)  # refuses what cannot be
        plain, seed = replace(plain, kind="generate", request=_run(recipe)), 0
    source, request = source_to_run(model, plain, given)
    methods, options = _methods(recipe)
    result = compare(
        source, request, methods=methods, options=options, seed=seed, on_step=given.on_step
    )
    return result.pictures()


def compare_steps(recipe: Recipe) -> int:
    """Return the denoising steps of all methods together."""
    if _of_photo(recipe):
        inversion, _, _ = edit_of(edit_in(recipe)[0])
        # The inversion, the picture without control, and at most a recording with every method.
        return (inversion.steps or 1) * (2 + 2 * len(_methods(recipe)[0]))
    request, methods, _ = comparison_of(recipe)
    return (request.steps or 1) * len(methods)
