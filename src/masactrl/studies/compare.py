"""The paper's comparison: one source, one target prompt, one column a method, and the figures.

    source | fixed seed | MasaCtrl | Prompt-to-Prompt | ...

Every method edits the same source from the same noise. Here the source comes from a prompt; of a
photograph it is `masactrl.studies.compare_edited`, which fills the same table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError
from masactrl.pictures.figures import Figure
from masactrl.pictures.images import Tile, png_bytes
from masactrl.runs.generate import generate
from masactrl.runs.layout import stated_files
from masactrl.runs.recipe import Recipe, stated_model
from masactrl.runs.result import TITLES
from masactrl.settings.shared import FROM_SOURCE
from masactrl.studies.compare_figures import ComparisonFigures, read_figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.layout import Layout, LayoutsAsked
    from masactrl.runs.request import GenerateRequest

__all__ = [
    "COMPARED",
    "COMPARED_FLOWS",
    "COMPARISON",
    "Comparison",
    "ComparisonColumn",
    "ComparisonFigures",
    "check_compared",
    "column_of",
    "compare_generated",
    "compared_by",
    "comparison_recipe",
    "layouts_by",
    "read_figures",
    "with_figures",
]

COMPARED = ("masactrl", "prompt-to-prompt", "plug-and-play", "sdedit", "unified")
"""Methods compared when none are named; the picture without control is always there."""

COMPARED_FLOWS = ("masactrl", "sdedit", "flowedit", "consistedit", "rf-edit")
"""The same of SD3 and FLUX."""


COMPARISON = "comparison"
"""The name of the picture that shows all columns."""

_GIVEN = ("source", "reconstruction", "fixed-seed")  # columns that no method is named for


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonColumn:
    """One method's picture.

    Attributes:
        method: its name in `masactrl.methods.METHODS`, or "source", or of a photograph
            "reconstruction".
        title: what stands above the column.
        image: the picture.
        seconds: that it took together with its source; None for the source.
        note: a fact about the picture, shown with it; empty for none.
        figures: None where nothing can be read (another model than the embedded one).
    """

    method: str
    title: str
    image: Image.Image
    seconds: float | None = None
    figures: ComparisonFigures | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several methods on one source and one target prompt.

    Attributes:
        source_prompt: what the source shows; empty where nobody said.
        target_prompt: what the targets are to show.
        columns: the source, then what was made of it.
        left_out: methods that were not asked for by name and could not be used, with the reason.
        inversion_seconds: that the inversion took, once for all; None where there was none.
        unmade: methods that were not run any more, because somebody stopped it.
    """

    source_prompt: str
    target_prompt: str
    columns: tuple[ComparisonColumn, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    inversion_seconds: float | None = None
    unmade: tuple[str, ...] = ()

    def methods(self) -> tuple[str, ...]:
        """Return the methods that were run, beside the one without control."""
        return tuple(one.method for one in self.columns if one.method not in _GIVEN)

    def pictures(self) -> dict[str, Image.Image]:
        """Return the sheet and every picture under the name that it is written with."""
        return {COMPARISON: self.to_sheet(), **{one.method: one.image for one in self.columns}}

    def prompts(self) -> dict[str, str]:
        """Return the prompts of single pictures that have one, under the names of `pictures`."""
        of_source = ("source", "reconstruction")
        every = {
            one.method: self.source_prompt if one.method in of_source else self.target_prompt
            for one in self.columns
        }
        return {name: prompt for name, prompt in every.items() if prompt}

    def to_sheet(self) -> Image.Image:
        """Return one labelled row: the source, then one column a method."""
        return self.to_figure().to_image()

    def to_figure(self) -> Figure:
        """Return what `to_sheet` draws, to be saved as PNG and SVG."""
        tiles = tuple(
            Tile(image=column.image, caption=self._caption(column)) for column in self.columns
        )
        return Figure(rows=(tiles,), headers=tuple(column.title for column in self.columns))

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        return png_bytes(self.to_sheet())

    def _caption(self, column: ComparisonColumn) -> str:
        if column.method == "source":
            return self.source_prompt or "no prompt"
        if column.method == "reconstruction":
            return column.note
        # No seconds: the same comparison is the same picture.
        said = self.target_prompt
        if column.figures is not None:
            said = f"{column.figures.seen}, identity {column.figures.identity_error:.0f}"
        return f"{said}; {column.note}" if column.note else said


def comparison_recipe(
    model: LoadedModel,
    request: GenerateRequest,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """Return how the pictures of a comparison are made; arguments are those that made it."""
    given = {name: dict(values) for name, values in (options or {}).items()}
    return Recipe(
        kind="compare",
        picture=COMPARISON,
        model=stated_model(model),
        device=model.pipeline._execution_device.type,
        dtype=model.dtype,
        request={
            **request.resolve(model.preset).recipe(),
            "methods": list(methods or compared_by(model)),
            "options": given,
        },
        inputs=stated_files(request.layouts),
    )


def compare_generated(
    model: LoadedModel,
    request: GenerateRequest,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Make a source, and its target by every method, from the same noise.

    Args:
        model: what `load_pipeline` returns.
        request: with one target prompt; its method is not looked at. Its layouts lead the target of
            every method but those of `FROM_SOURCE`, which come last then, and say so.
        methods: names in `masactrl.methods.METHODS`; "fixed-seed" is always the first. None is
            `compared_by(model)`.
        options: fields of the methods by their name.
        on_step: called after every denoising step of all runs.
        stop: asked before every further method; True ends it with those that are made.

    Raises:
        ConfigError: not one target prompt, no method, an unknown one, one twice, or layouts for
            methods that take none.
    """
    given = dict(options or {})
    names = check_compared(request, methods or compared_by(model), given)
    columns: list[ComparisonColumn] = []
    for name in names:
        if columns and stop is not None and stop():
            break
        asked = _with_method(request, name, given.get(name, {}))
        started = time.perf_counter()
        result = generate(model, asked, on_step=on_step)
        seconds = time.perf_counter() - started
        target = result.targets[0]
        if not columns:
            columns.append(ComparisonColumn(method="source", title="source", image=result.source))
            columns.append(column_of(request, "fixed-seed", target.uncontrolled, None))
        columns.append(column_of(request, name, target.controlled, seconds))
    return Comparison(
        source_prompt=request.source_prompt,
        target_prompt=request.target_prompts[0],
        columns=with_figures(model, columns, request.target_prompts[0]),
        unmade=names[len(columns) - 2 :],  # beside the source and its fixed seed
    )


def compared_by(model: LoadedModel) -> tuple[str, ...]:
    """Return the methods compared with a model when none are named."""
    return COMPARED_FLOWS if model.kind == "flow" else COMPARED


def check_compared(
    request: LayoutsAsked, methods: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """Return the methods to compare, without the fixed seed that is always there.

    With layouts those that take none come last.

    Raises:
        ConfigError: not one target prompt, no method, one twice, options of another method, or
            layouts for methods that take none.
    """
    targets = request.target_prompts
    if len(targets) != 1:
        raise ConfigError(f"A comparison has one target prompt and {len(targets)} were given.")
    names = tuple(name for name in methods if name != "fixed-seed")
    if not names or len(set(names)) != len(names):
        raise ConfigError("Name every method to compare once, and at least one.")
    unknown = set(options) - set(names)
    if unknown:
        raise ConfigError(f"Options were given for {sorted(unknown)[0]!r}, which is not compared.")
    if request.layouts:
        names = tuple(sorted(names, key=lambda name: name in FROM_SOURCE))
        if names[0] in FROM_SOURCE:
            raise ConfigError(
                f"A layout was given, and {', '.join(names)} take none; add a method that does, "
                "such as masactrl, or leave the layout out."
            )
    return names


def _with_method(
    request: GenerateRequest, name: str, options: Mapping[str, Any]
) -> GenerateRequest:
    if name == "masactrl":
        return replace(request, method=name, method_options=(), **options)
    return replace(
        request,
        method=name,
        method_options=options,
        start_step=None,
        start_layer=None,
        form="replace",
        strength=1.0,
        layouts=layouts_by(request, name),
    )


def layouts_by(request: LayoutsAsked, name: str) -> tuple[Layout, ...]:
    """Return the layouts that lead the target of a method: all of them, or none."""
    return () if name in FROM_SOURCE else request.layouts


def column_of(
    request: LayoutsAsked, name: str, image: Image.Image, seconds: float | None
) -> ComparisonColumn:
    """Return the column of a method, without figures."""
    return ComparisonColumn(
        method=name,
        title=TITLES.get(name, name),
        image=image,
        seconds=seconds,
        note="without the layout" if request.layouts and name in FROM_SOURCE else "",
    )


def with_figures(
    model: LoadedModel, columns: Sequence[ComparisonColumn], target_prompt: str
) -> tuple[ComparisonColumn, ...]:
    """Return the columns, the source first, with what can be read in pictures of that model."""
    figures = None
    if model.family == "puppets":
        figures = read_figures([column.image for column in columns], target_prompt)
    if figures is None:
        return tuple(columns)
    return tuple(replace(c, figures=f) for c, f in zip(columns, figures, strict=True))
