"""The paper's ablation as one figure: the same targets for every S and every L.

The source is recorded once, from the smallest S and L on; every cell reads of it what its own S and
L ask for. So a cell costs what plainly generating its targets costs.

    axes = parse_axes(["start-step=2-8(+2)", "start-layer=8,10,12"])
    sweep(session, EditRequest(target_prompts=("a running corgi",)), axes).save(Path("out"))
"""

from __future__ import annotations

import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from masactrl.attention import Rows
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError
from masactrl.methods import MasaCtrl
from masactrl.models.drawing import first_level_warning
from masactrl.runs.generate import leading, painter
from masactrl.runs.prompts import prompt_warnings
from masactrl.settings.torch_defaults import torch_defaults
from masactrl.studies.axes import Axes, parse_axes
from masactrl.studies.source import study_of
from masactrl.studies.sweep_plan import check_axes, sweep_calls
from masactrl.studies.sweep_result import SWEEP, SweepResult, TargetSweep, sweep_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from PIL import Image

    from masactrl.runs.edit_request import EditRequest
    from masactrl.runs.edit_result import EditResult
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.recipe import Recipe
    from masactrl.runs.session import EditSession
    from masactrl.studies.source import Request, Source, Study

__all__ = [
    "Axes",
    "SweepResult",
    "TargetSweep",
    "parse_axes",
    "sweep",
    "sweep_calls",
    "sweep_edit",
    "sweep_generate",
    "sweep_names",
]

_SWEPT = ("start_step", "start_layer")  # what the axes say and a request leaves open


@torch_defaults()
def sweep(
    source: Source,
    request: Request,
    axes: Axes,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> SweepResult:
    """Make the targets of a source with every S and L of the axes, all from the same noise.

    Args:
        source: the model that draws the source from its prompt, or a picture that was inverted; its
            recorded features are replaced by those that serve all cells.
        request: a `GenerateRequest` or an `EditRequest`; its own S and L fill an axis that was not
            given.
        axes: what to try.
        on_step: called after each denoising step; an exception raised there ends the sweep.
        stop: asked before every further cell; True ends the sweep with the cells that are made.

    Raises:
        ConfigError: the request is of another method than masactrl, which has no S and L, of the
            joint mode, which records nothing, or for another kind of source.
        ScheduleError: an S or L is beyond the run or the model; said before anything is run.
        MasaCtrlError: the model made NaN or infinite values, as some do in float16.

    Warns:
        ControlWarning: the model will not see a prompt as it was written; what edits warn of, once.
    """
    study = study_of(source, request)
    if request.method != "masactrl":
        raise ConfigError(f"S and L belong to the method masactrl, not to {request.method}.")
    settings = study.settings
    axes = axes.filled(settings.start_step, settings.start_layer)
    started = time.perf_counter()
    if study.session is None:
        made = _drawn(study, axes, on_step, stop)
    else:
        made = _edited(study.session, study.request, axes, on_step, stop)
    return SweepResult(
        axes=axes,
        picture=study.picture,
        source=made.source,
        targets=tuple(
            TargetSweep(
                prompt=prompt,
                uncontrolled=made.plain[number],
                cells={cell: pictures[number] for cell, pictures in made.cells.items()},
            )
            for number, prompt in enumerate(request.target_prompts)
        ),
        recipe=_recipe(made.recipe, axes),
        seconds=made.seconds + time.perf_counter() - started,
        passes=made.passes,
        facts=made.facts,
    )


sweep_edit = sweep_generate = sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """What either kind of source gives: the targets without control, and those of every cell."""

    source: Image.Image
    plain: tuple[Image.Image, ...]
    cells: Mapping[tuple[int, int], tuple[Image.Image, ...]]
    recipe: Recipe
    passes: int
    seconds: float = 0.0  # that were spent before
    facts: Mapping[str, float | None] = field(default_factory=dict)


def _edited(
    session: EditSession,
    request: EditRequest,
    axes: Axes,
    on_step: Callable[[StepRecord], None] | None,
    stop: Callable[[], bool] | None,
) -> _Cells:
    if request.mode == "joint":
        raise ConfigError("A sweep records its source once, which mode='joint' does not; leave it.")
    for start_step, start_layer in axes.cells():
        session.plan(replace(request, start_step=start_step, start_layer=start_layer))
    made: dict[tuple[int, int], EditResult] = {}
    with _warned_once():
        # The smallest S and L come first, so that their recording serves the others.
        for cell in sorted(axes.cells()):
            if made and stop is not None and stop():
                break
            asked = replace(request, start_step=cell[0], start_layer=cell[1], compare=not made)
            made[cell] = session.edit(asked, on_step=on_step)
    first = made[min(made)]
    return _Cells(
        source=first.source,
        plain=tuple(_there(target.uncontrolled) for target in first.targets),
        cells={cell: tuple(t.controlled for t in one.targets) for cell, one in made.items()},
        recipe=first.recipe(SWEEP),
        passes=session.passes
        + sum(one.passes["source"] + one.passes["edit"] for one in made.values()),
        seconds=session.seconds,
        facts={name: _decibels(getattr(first.quality, name)) for name in ("psnr", "ceiling")},
    )


def _drawn(
    study: Study,
    axes: Axes,
    on_step: Callable[[StepRecord], None] | None,
    stop: Callable[[], bool] | None,
) -> _Cells:
    """There are `steps` times (2 + cells) U-Net calls: the source is recorded once for all."""
    model, settings = study.model, study.settings
    check_axes(model.denoiser, axes, settings.steps)
    pipeline, targets = model.pipeline, settings.target_prompts
    for note in (
        *first_level_warning(pipeline.scheduler, settings.steps),
        *prompt_warnings(model, [settings.source_prompt, *targets, settings.negative_prompt]),
    ):
        warnings.warn(note, ControlWarning, stacklevel=4)
    pictures, led = painter(model, settings, on_step), leading(model, settings)
    numbers = range(1, len(targets) + 1)

    def control(start_step: int, start_layer: int) -> MasaCtrl:
        return MasaCtrl.of(settings, start=(start_step, start_layer))

    # In the host's memory, as edits keep their sources, and as it is: every bit counts.
    with led([0]), control(*min(axes.cells())).record(pipeline, device="cpu") as recorded:
        (source,) = pictures([settings.source_prompt])
    with led(numbers):
        plain = pictures(targets)
    cells: dict[tuple[int, int], tuple[Image.Image, ...]] = {}
    for cell in axes.cells():
        if cells and stop is not None and stop():
            break
        rows = Rows.from_cache(targets=len(targets))
        with led(numbers), control(*cell).attach(pipeline, rows, source=recorded):
            cells[cell] = pictures(targets)
    branches = 1 if settings.guidance_scale == 1 else 2
    return _Cells(
        source=source,
        plain=plain,
        cells=cells,
        recipe=study.recipe("generate", SWEEP),
        passes=settings.steps * branches * (1 + len(targets) * (1 + len(cells))),
    )


def _recipe(run: Recipe, axes: Axes) -> Recipe:
    """Return the recipe of a sweep from that of a plain run, whose S and L the axes replace."""
    left = {name: value for name, value in run.request.items() if name not in _SWEPT}
    request = {
        "of": run.kind,
        "axes": {"start_step": list(axes.start_steps), "start_layer": list(axes.start_layers)},
        "run": left,
    }
    return replace(run, kind=SWEEP, picture=SWEEP, request=request)


def _decibels(ratio: float) -> float | None:
    return None if math.isinf(ratio) else round(ratio, 2)


@contextmanager
def _warned_once() -> Iterator[None]:
    """Say in the end, and once, what every cell warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ControlWarning)
        yield
    said = dict.fromkeys((str(one.message), one.category) for one in caught)
    for message, category in said:
        warnings.warn(message, category, stacklevel=6)


def _there(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise MasaCtrlError("The first cell was made without its comparison.")
    return picture
