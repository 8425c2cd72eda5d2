"""Recipes of the kind "sweep": the command, and the grid or one of its cells.

The recipe holds the axes and the request of the plain run that every cell is:

    {"of": "edit", "axes": {"start_step": [2, 4], "start_layer": [8, 10]}, "run": {...}}

A cell is made again from the smallest S and L, whose recording of the source it read, so to the
bit; at most four cells are run for it, and not the whole grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.errors import ConfigError
from masactrl.rerun.command_line import command_words, declared_flags
from masactrl.rerun.edit import edit_of, input_names, source_to_run, study_options
from masactrl.rerun.generate import generate_options, layout_words, request_of
from masactrl.runs.recipe import Recipe, checked
from masactrl.studies.axes import Axes
from masactrl.studies.sweep_result import SWEEP, cell_name

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs
    from masactrl.studies.sweep import SweepResult

__all__ = [
    "SWEPT",
    "axes_of",
    "plain_recipe",
    "rerun_sweep",
    "sweep_grid",
    "sweep_steps",
    "sweep_words",
]

_STRICT = MappingProxyType({"extra": "forbid"})

SWEPT = ("start_step", "start_layer")
"""Options that are the axes."""

_FOREIGN = ("mode", "keep", "method", "method_option")
"""Options of edits that `masactrl sweep` does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AskedAxes:
    """Values of S and L as a recipe tells them."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    start_step: tuple[int, ...]
    start_layer: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A sweep as a recipe tells it."""

    of: Literal["edit", "generate"]
    axes: _AskedAxes
    run: dict[str, Any]

    def grid(self) -> Axes:
        """Return the axes, none of them empty.

        Raises:
            ConfigError: they are no axes.
        """
        if not self.axes.start_step or not self.axes.start_layer:
            raise ConfigError("The recipe cannot be used: an axis of its sweep is empty.")
        return Axes(start_steps=self.axes.start_step, start_layers=self.axes.start_layer)


def axes_of(recipe: Recipe) -> Axes:
    """Return the axes of a sweep; `ConfigError` where there are none."""
    return checked(_Asked, dict(recipe.request)).grid()


def plain_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the plain run of a cell; of the figure, of its first cell.

    The plain run makes the picture closely, not to the bit: it runs other pictures beside it.

    Raises:
        ConfigError: the recipe holds no sweep, or no such picture.
    """
    asked = checked(_Asked, dict(recipe.request))
    axes = asked.grid()
    cell = _cell(recipe, asked, axes)
    target = 1 if cell is None else int(recipe.picture.removeprefix("target").partition("-")[0])
    step, layer = axes.cells()[0] if cell is None else cell
    return replace(
        recipe,
        kind=asked.of,
        picture=f"target{target}-controlled",
        request={**asked.run, "start_step": step, "start_layer": layer},
    )


def sweep_words(recipe: Recipe) -> list[str]:
    """Return the words of `masactrl sweep`.

    Raises:
        ConfigError: the sweep was made in Python with what the command has no option for.
    """
    asked = checked(_Asked, dict(recipe.request))
    axes = asked.grid()
    _cell(recipe, asked, axes)  # refuses what the sweep does not make
    grid, plain = _axes_words(axes), plain_recipe(recipe.of(SWEEP))
    if asked.of == "generate":
        request = request_of(plain.request)
        options = [("source", request.source_prompt), *generate_options(plain)]
        _refuse_foreign(options)
        return command_words("sweep", grid, [one for one in options if one[0] not in SWEPT])
    inversion, _, masks = edit_of(plain)
    options = [*study_options(plain), *layout_words(plain, 1)]
    _refuse_foreign(options, masks=masks is not None)
    words = command_words(
        "sweep", [input_names(recipe)[0], *grid], [one for one in options if one[0] not in SWEPT]
    )
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *declared_flags(inversion), *words[at:]]


def rerun_sweep(
    model: LoadedModel, recipe: Recipe, given: RerunInputs
) -> Mapping[str, Image.Image]:
    """Make the figure with all cells again, or the one cell that the recipe names."""
    result = sweep_grid(model, recipe, given)
    return result.pictures() | ({SWEEP: result.to_sheet()} if recipe.picture == SWEEP else {})


def sweep_grid(model: LoadedModel, recipe: Recipe, given: RerunInputs) -> SweepResult:
    """Make all cells again, or those that the one cell needs that the recipe names."""
    from masactrl.studies.sweep import sweep

    asked = checked(_Asked, dict(recipe.request))
    axes = asked.grid()
    cell = _cell(recipe, asked, axes)
    axes = axes if cell is None else _narrowed(axes, cell)
    source, request = source_to_run(model, plain_recipe(recipe.of(SWEEP)), given)
    return sweep(source, request, axes, on_step=given.on_step)


def sweep_steps(recipe: Recipe) -> int:
    """Return the denoising steps of the run, at most."""
    asked = checked(_Asked, dict(recipe.request))
    axes = asked.grid()
    cell = _cell(recipe, asked, axes)
    axes = axes if cell is None else _narrowed(axes, cell)
    # Beside the cells: source and targets without control, or inversion and recording.
    return _steps(asked) * (2 + len(axes.cells()))


def _steps(asked: _Asked) -> int:
    steps = asked.run.get("steps")
    return steps if isinstance(steps, int) else 1


def _cell(recipe: Recipe, asked: _Asked, axes: Axes) -> tuple[int, int] | None:
    """Return the S and L of the picture that the recipe names; None for the figure."""
    if recipe.picture == SWEEP:
        return None
    prompts = asked.run.get("target_prompts")
    count = len(prompts) if isinstance(prompts, list | tuple) else 0
    for number in range(1, count + 1):
        for cell in axes.cells():
            if recipe.picture == cell_name(number, cell):
                return cell
    raise ConfigError(
        f"The recipe is of a picture {recipe.picture!r}, which its sweep does not make."
    )


def _narrowed(axes: Axes, cell: tuple[int, int]) -> Axes:
    """Return the smallest grid with that cell and with what decides about the recording."""
    first = min(axes.cells())
    steps, layers = (tuple(dict.fromkeys(pair)) for pair in zip(first, cell, strict=True))
    return Axes(start_steps=steps, start_layers=layers)


def _axes_words(axes: Axes) -> list[str]:
    steps, layers = (",".join(map(str, one)) for one in (axes.start_steps, axes.start_layers))
    return [f"start-step={steps}", f"start-layer={layers}"]


def _refuse_foreign(options: list[tuple[str, str]], *, masks: bool = False) -> None:
    found = [f"--{name.replace('_', '-')}" for name, _ in options if name in _FOREIGN]
    found += ["masks"] if masks else []
    if found:
        raise ConfigError(
            f"The sweep was made with {found[0]}, for which `masactrl sweep` has no option; "
            "`masactrl rerun` makes the picture again."
        )
