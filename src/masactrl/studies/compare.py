"""The paper's comparison: one source, one target prompt, one column a method, and the figures.

    source | fixed seed | MasaCtrl | Prompt-to-Prompt | ...

    compare(model, GenerateRequest(source_prompt=..., target_prompts=(...,)))
    compare(invert(model, "corgi.jpg"), EditRequest(target_prompts=(...,))).to_sheet()

Every method edits the same source from the same noise. Of a photograph, which is inverted once for
all, the reconstruction stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError, PromptError
from masactrl.models.presets import PUPPETS
from masactrl.pictures.figures import Figure
from masactrl.pictures.images import Tile, png_bytes
from masactrl.runs.edit_request import ALSO_MASACTRLS, EditRequest
from masactrl.runs.edit_result import EditResult
from masactrl.runs.request import MASACTRLS
from masactrl.runs.result import TITLES
from masactrl.settings.on_demand import on_demand
from masactrl.settings.shared import FROM_SOURCE
from masactrl.studies.compare_figures import ComparisonFigures, read_figures
from masactrl.studies.source import study_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.cost import EditPlan
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.layout import Layout, LayoutsAsked
    from masactrl.runs.recipe import Recipe
    from masactrl.runs.result import GenerateResult
    from masactrl.studies.source import Request, Source, Study

__all__ = [
    "COMPARED",
    "COMPARED_FLOWS",
    "COMPARISON",
    "Comparison",
    "ComparisonColumn",
    "ComparisonFigures",
    "check_compared",
    "compare",
    "compare_generated",
    "compared_by",
    "compared_calls",
    "comparison_recipe",
    "read_figures",
]

COMPARED = ("masactrl", "prompt-to-prompt", "plug-and-play", "sdedit", "unified")
"""Methods compared when none are named; the picture without control is always there."""

COMPARED_FLOWS = ("masactrl", "sdedit", "flowedit", "consistedit", "rf-edit")
"""The same of SD3 and FLUX."""


COMPARISON = "comparison"
"""The name of the picture that shows all columns."""

_FIXED = "fixed-seed"
_GIVEN = ("source", "reconstruction", _FIXED)  # columns that no method is named for

_RENAMED = {"compare_edited": "compare", "edited_recipe": "comparison_recipe"}
__getattr__ = on_demand(__name__, dict.fromkeys(_RENAMED.values(), __name__), renamed=_RENAMED)


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
    source: Source,
    request: Request,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Recipe:
    """Return how the pictures of a comparison are made; arguments are those that made it."""
    study = study_of(source, request)
    asked, _ = _asked(study, methods, options, seed)
    more = {} if study.session is None else {"seed": seed}
    given = {name: dict(values) for name, values in (options or {}).items()}
    named = [name for name in asked if name != _FIXED]
    return study.recipe("compare", COMPARISON, methods=named, options=given, **more)


def compare(
    source: Source,
    request: Request,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Make a target by every method, of the same source and from the same noise.

    Args:
        source: the model that draws the source from its prompt, or a picture that was inverted.
        request: a `GenerateRequest` or an `EditRequest`, with one target prompt; its method is not
            looked at; S, L, form, strength and masks are masactrl's. Its layouts lead the target of
            every method but those of `FROM_SOURCE`, which come last then, and say so.
        methods: names in `masactrl.methods.METHODS`; "fixed-seed" is always the first. None is
            `compared_by(model)`, without those that align words where a picture was inverted
            without a prompt.
        options: fields of the methods by their name.
        seed: of a picture: of the noise that methods draw that start from the source or from fresh
            noise. Sources that are drawn have it in their request.
        on_step: called after every denoising step of all runs.
        stop: asked before every method after the first; True ends it with those that are made.

    Raises:
        ConfigError: not one target prompt, no method, an unknown one, one twice, layouts for
            methods that take none, or a request for another kind of source.
        PromptError: a method was named that aligns words, and the picture has no prompt.
        MasaCtrlError: what `generate` and `EditSession.edit` raise.
    """
    study = study_of(source, request)
    asked, left_out = _asked(study, methods, options, seed)
    columns: list[ComparisonColumn] = []
    unmade = list(asked)
    for name, one in asked.items():
        # The fixed seed alone would compare nothing.
        if {*asked} - {*unmade, _FIXED} and stop is not None and stop():
            break
        unmade.remove(name)
        started = time.perf_counter()
        result = study.run(one, on_step=on_step)
        seconds = time.perf_counter() - started
        target = result.targets[0]
        if not columns:
            shown = study.picture or result.source
            columns.append(ComparisonColumn(method="source", title="source", image=shown))
            columns.append(_second(request, result))
        columns.append(column_of(request, name, target.controlled, seconds))
    return Comparison(
        source_prompt=study.prompt,
        target_prompt=request.target_prompts[0],
        columns=with_figures(study.model, columns, request.target_prompts[0]),
        left_out=left_out,
        inversion_seconds=None if study.session is None else study.session.seconds,
        unmade=tuple(unmade),
    )


compare_generated = compare


def compared_calls(
    plan: Callable[[EditRequest], EditPlan],
    request: EditRequest,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Return the U-Net calls of a picture's comparison without its inversion.

    Args:
        plan: says what an edit costs: `EditSession.plan`, or `runs.invert.plan` with all but the
            edit, before there is a session.
        request, methods, options: as those of `compare`, as are the errors.
    """
    asked, _ = _edits(plan, request, methods or COMPARED, options or {}, optional=methods is None)
    return sum(plan(edit).calls for edit in asked.values())


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
    names = tuple(name for name in methods if name != _FIXED)
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


def _asked(
    study: Study,
    methods: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]] | None,
    seed: int,
) -> tuple[Mapping[str, Any], tuple[tuple[str, str], ...]]:
    """The request of every method by its name, and which methods are left out and why."""
    named, given, request = methods or compared_by(study.model), options or {}, study.request
    if study.session is not None:
        plan, optional = study.session.plan, methods is None
        return _edits(plan, request, named, given, optional=optional, seed=seed)
    names = check_compared(request, named, given)
    if seed:
        raise ConfigError(f"seed={seed} was given; a source that is drawn has it in its request.")
    return {name: _by(request, name, given.get(name, {})) for name in names}, ()


def _edits(
    plan: Callable[[EditRequest], EditPlan],
    request: EditRequest,
    methods: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    *,
    optional: bool,
    seed: int = 0,
) -> tuple[dict[str, EditRequest], tuple[tuple[str, str], ...]]:
    """The same of edits, the fixed seed first, which no other run makes beside its own.

    Everything is asked before anything runs: nobody should wait for the last column's mistake.
    """
    edits: dict[str, EditRequest] = {}
    left_out: list[tuple[str, str]] = []
    for name in (_FIXED, *check_compared(request, methods, options)):
        drawn = seed if name in FROM_SOURCE or request.fresh_noise else None
        edit = _by(request, name, options.get(name, {}), compare=False, seed=drawn)
        try:
            plan(edit)
        except PromptError as error:
            if not optional or name in options:
                raise
            left_out.append((name, str(error)))
            continue
        edits[name] = edit
    return edits, tuple(left_out)


def _by(request: Any, name: str, options: Mapping[str, Any], **own: Any) -> Any:
    """The request by a method; of masactrl's own settings another one takes no notice."""
    if name == "masactrl":
        return replace(request, method=name, method_options=(), **own, **options)
    usual = {**MASACTRLS, **(ALSO_MASACTRLS if isinstance(request, EditRequest) else {})}
    if name in FROM_SOURCE and isinstance(request, EditRequest):
        usual["fresh_noise"] = 0.0  # they begin with noise of their own
    own |= {"method": name, "method_options": options, "layouts": layouts_by(request, name)}
    return replace(request, **usual, **own)


def _second(request: LayoutsAsked, result: GenerateResult | EditResult) -> ComparisonColumn:
    """The column beside the source: how the picture came back, or the target without control."""
    if isinstance(result, EditResult):
        return ComparisonColumn(
            method="reconstruction",
            title="reconstruction",
            image=result.reconstruction,
            note=f"{result.quality.psnr:.1f} dB",
        )
    return column_of(request, _FIXED, result.targets[0].uncontrolled, None)


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
    if model.family in PUPPETS:
        figures = read_figures([column.image for column in columns], target_prompt)
    if figures is None:
        return tuple(columns)
    return tuple(replace(c, figures=f) for c, f in zip(columns, figures, strict=True))
