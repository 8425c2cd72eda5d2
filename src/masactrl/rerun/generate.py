"""Recipes of the kind "generate": the request in them, the command, and the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError
from masactrl.rerun.command_line import command_words, declared_options
from masactrl.rerun.layouts import layout_options, layouts_drawn, layouts_of
from masactrl.runs.generate import GenerateRequest, generate
from masactrl.runs.recipe import Recipe, checked
from masactrl.runs.result import SHEET

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs

__all__ = [
    "generate_steps",
    "generate_words",
    "layout_words",
    "refuse_object",
    "request_of",
    "request_to_run",
    "rerun_generate",
    "run_options",
]

_MASACTRLS = ("start_step", "start_layer", "layers", "form", "strength", "positions")


def request_of(
    values: Mapping[str, Any],
    inputs: Sequence[Path] = (),
    networks: Mapping[str, str] = MappingProxyType({}),
) -> GenerateRequest:
    """Return the request that a recipe of the kind "generate" holds.

    Args:
        values: of the recipe.
        inputs: files of the layouts that it names, in order; without them the request has none.
        networks: what reads them, by kind, of those that are local.

    Raises:
        ConfigError: it is none, or asks for what cannot be.
    """
    refuse_object(values)
    asked = {name: value for name, value in values.items() if name not in ("control", "layouts")}
    if asked.get("method", "masactrl") != "masactrl":
        # A resolved request has MasaCtrl's values also where another method took no notice.
        asked = {name: value for name, value in asked.items() if name not in _MASACTRLS}
    request = checked(GenerateRequest, asked)
    return replace(request, layouts=layouts_drawn(values, inputs, networks)) if inputs else request


def request_to_run(values: Mapping[str, Any], given: RerunInputs) -> GenerateRequest:
    """Return the request that a recipe holds, to be run: with its layouts' pictures.

    Raises:
        ConfigError: as from `request_of`, or a picture of a layout is missing.
    """
    wanted = sum(one.files + one.source for one in layouts_of(values))
    if len(given.inputs) != wanted:
        raise ConfigError(
            f"The picture was made with {wanted} pictures of layouts, and {len(given.inputs)} are "
            "given. "
            "Those that were open already, in Python, are in no recipe; save them, and make it "
            "from the files."
        )
    return request_of(values, given.inputs, given.networks)


def refuse_object(values: Mapping[str, Any]) -> None:
    """Refuse what was made by a control or from noise that was an object; `ConfigError`."""
    if control := values.get("control"):
        raise ConfigError(
            f"The picture was made with a control given as an object ({control}), which no recipe "
            "holds; make it again with the script that made it."
        )
    if values.get("noise"):
        raise ConfigError(
            "The picture was made from start noise that was given as an object, which no recipe "
            "holds; make it again with the script that made it."
        )


def generate_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl generate`."""
    source = request_of(recipe.request).source_prompt
    return command_words("generate", [source], generate_options(recipe))


def generate_options(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the options of `masactrl generate` as pairs of name and value."""
    return [*run_options(request_of(recipe.request)), *layout_words(recipe)]


def layout_words(recipe: Recipe, first: int = 0) -> list[tuple[str, str]]:
    """Return the options that ask for a recipe's layouts; their files are its inputs from there."""
    names = [PurePath(one.name).name for one in recipe.inputs[first:]]
    return layout_options(layouts_of(recipe.request), names)


def run_options(request: GenerateRequest) -> list[tuple[str, str]]:
    """Return the options that a request from prompts asks for, without layouts."""
    size = [("size", f"{request.width}x{request.height}")] if request.width else []
    return [*declared_options(request), *size]


def rerun_generate(
    model: LoadedModel, recipe: Recipe, given: RerunInputs
) -> Mapping[str, Image.Image]:
    """Make source and targets again, and return all pictures by name."""
    request = request_to_run(recipe.request, given)
    result = generate(model, request, on_step=given.on_step)
    return {**result.pictures(), SHEET: result.to_sheet()}


def generate_steps(recipe: Recipe) -> int:
    """Return the denoising steps of the run."""
    return request_of(recipe.request).steps or 1
