"""Recipes of the kind "compare": the command, and the comparison itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from masactrl.again_generate import json_word, request_of
from masactrl.command_words import command_words
from masactrl.compare import COMPARISON, compare_generated
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.again import Given
    from masactrl.models import LoadedModel
    from masactrl.recipe import Recipe
    from masactrl.request import GenerateRequest

__all__ = ["compare_again", "compare_steps", "compare_words"]

Options = dict[str, dict[str, Any]]


def _asked(recipe: Recipe) -> tuple[GenerateRequest, tuple[str, ...], Options]:
    """Return the request of a recipe, the methods and their options."""
    values = dict(recipe.request)
    methods, options = values.pop("methods", None), values.pop("options", {})
    request = request_of(values)
    named = isinstance(methods, list) and methods and all(isinstance(one, str) for one in methods)
    if not named or len(request.target_prompts) != 1:
        raise ConfigError("The recipe cannot be used: it compares no methods on one target.")
    if not isinstance(options, dict) or not all(isinstance(one, dict) for one in options.values()):
        raise ConfigError("The recipe cannot be used: the options of its methods are damaged.")
    frozen = {
        method: {name: _frozen(value) for name, value in given.items()}
        for method, given in options.items()
    }
    return request, tuple(methods or ()), frozen


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def compare_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl compare`."""
    request, methods, options = _asked(recipe)
    words = [("to", request.target_prompts[0]), *(("method", one) for one in methods)]
    for method, given in options.items():
        words += [
            ("method_option", f"{method}.{name}={json_word(value)}")
            for name, value in given.items()
        ]
    words.append(("seed", str(request.seed)))
    words += [("size", f"{request.width}x{request.height}")] if request.width else []
    for name, value in (
        ("steps", request.steps),
        ("cfg", request.guidance_scale),
        ("start_step", request.start_step),
        ("start_layer", request.start_layer),
        ("negative", request.negative_prompt or None),
    ):
        words += [] if value is None else [(name, str(value))]
    return command_words("compare", request.source_prompt, words)


def compare_again(model: LoadedModel, recipe: Recipe, given: Given) -> Mapping[str, Image.Image]:
    """Make the comparison again, and return all pictures by name."""
    request, methods, options = _asked(recipe)
    result = compare_generated(
        model, request, methods=methods, options=options, on_step=given.on_step
    )
    return {COMPARISON: result.to_sheet(), **{one.method: one.image for one in result.columns}}


def compare_steps(recipe: Recipe) -> int:
    """Return the denoising steps of all methods together."""
    request, methods, _ = _asked(recipe)
    return (request.steps or 1) * len(methods)
