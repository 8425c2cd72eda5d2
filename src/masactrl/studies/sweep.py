"""The paper's ablation as one figure: the same targets for every S and every L.

The source is recorded once, from the smallest S and L on; every cell reads of it what its own S and
L ask for. So a cell costs what plainly generating its targets costs.

    axes = parse_axes(["start-step=2-8(+2)", "start-layer=8,10,12"])
    sweep_edit(session, EditRequest(target_prompts=("a running corgi",)), axes).save(Path("out"))
"""

from __future__ import annotations

import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from masactrl.attention import Rows
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError
from masactrl.methods import MasaCtrl
from masactrl.models.drawing import first_level_warning
from masactrl.runs.generate import leading, painter
from masactrl.runs.layout import stated_files
from masactrl.runs.prompts import prompt_warnings
from masactrl.runs.recipe import Recipe, stated_model
from masactrl.settings.torch_defaults import torch_defaults
from masactrl.studies.axes import Axes, parse_axes
from masactrl.studies.sweep_plan import check_axes, sweep_calls
from masactrl.studies.sweep_result import SWEEP, SweepResult, TargetSweep, sweep_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.edit_request import EditRequest
    from masactrl.runs.edit_result import EditResult
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.request import GenerateRequest, ResolvedRequest
    from masactrl.runs.session import EditSession

__all__ = [
    "Axes",
    "SweepResult",
    "TargetSweep",
    "parse_axes",
    "sweep_calls",
    "sweep_edit",
    "sweep_generate",
    "sweep_names",
]

_SWEPT = ("start_step", "start_layer")  # what the axes say and a request leaves open


def sweep_edit(
    session: EditSession,
    request: EditRequest,
    axes: Axes,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> SweepResult:
    """Edit an inverted picture with every S and L of the axes.

    Args:
        session: the picture; its recorded features are replaced by those that serve all cells.
        request: the targets; its own S and L fill an axis that was not given.
        axes: what to try.
        on_step: called after each U-Net call; an exception raised there ends the sweep.
        stop: asked before every further cell; True ends the sweep with the cells that are made.

    Raises:
        ConfigError: the request is of the joint mode, which records nothing, or of another method
            than masactrl, which has no S and L.
        ScheduleError: an S or L is beyond the steps of the run or the layers of the model; said
            before anything is run.

    Warns:
        ControlWarning: what edits warn of, once.
    """
    _check_method(request.method)
    if request.mode == "joint":
        raise ConfigError("A sweep records its source once, which mode='joint' does not; leave it.")
    settings = request.resolve(session.model.preset, session.trajectory.steps)
    axes = axes.filled(settings.start_step, settings.start_layer)
    for start_step, start_layer in axes.cells():
        session.plan(replace(request, start_step=start_step, start_layer=start_layer))
    made: dict[tuple[int, int], EditResult] = {}
    started = time.perf_counter()
    with _warned_once():
        # The smallest S and L come first, so that their recording serves the others.
        for cell in sorted(axes.cells()):
            if made and stop is not None and stop():
                break
            asked = replace(request, start_step=cell[0], start_layer=cell[1], compare=not made)
            made[cell] = session.edit(asked, on_step=on_step)
    first = made[min(made)]
    return SweepResult(
        axes=axes,
        picture=session.picture,
        source=first.reconstruction,
        targets=tuple(
            TargetSweep(
                prompt=target.prompt,
                uncontrolled=_there(target.uncontrolled),
                cells={cell: one.targets[number].controlled for cell, one in made.items()},
            )
            for number, target in enumerate(first.targets)
        ),
        recipe=_recipe(first.recipe(SWEEP), axes),
        seconds=session.seconds + time.perf_counter() - started,
        passes=session.passes
        + sum(one.passes["source"] + one.passes["edit"] for one in made.values()),
        facts={name: _decibels(getattr(first.quality, name)) for name in ("psnr", "ceiling")},
    )


@torch_defaults()
def sweep_generate(
    model: LoadedModel,
    request: GenerateRequest,
    axes: Axes,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> SweepResult:
    """Make a source from its prompt, and its targets with every S and L of the axes.

    All pictures start from the same noise. There are `steps` times (2 + cells) U-Net calls.

    Args:
        model: what `load_pipeline` returns.
        request: source and targets; its own S and L fill an axis that was not given.
        axes: what to try.
        on_step: called after each denoising step; an exception raised there ends the sweep.
        stop: asked before every further cell; True ends the sweep with the cells that are made.

    Raises:
        ConfigError: the request names another method than masactrl, which has no S and L.
        ScheduleError: an S or L is beyond the run or the model; said before anything is run.
        MasaCtrlError: the model made NaN or infinite values, as some do in float16.

    Warns:
        ControlWarning: the model will not see a prompt as it was written.
    """
    _check_method(request.method)
    settings = request.resolve(model.preset)
    axes = axes.filled(settings.start_step, settings.start_layer)
    check_axes(model.denoiser, axes, settings.steps)
    prompts = [settings.source_prompt, *settings.target_prompts, settings.negative_prompt]
    for note in (
        *first_level_warning(model.pipeline.scheduler, settings.steps),
        *prompt_warnings(model, prompts),
    ):
        warnings.warn(note, ControlWarning, stacklevel=3)
    started = time.perf_counter()
    source, plain, cells = _generated(model, settings, axes, on_step, stop)
    runs = 1 + len(settings.target_prompts) * (1 + len(cells))
    branches = 1 if settings.guidance_scale == 1 else 2
    plain_run = Recipe(
        kind="generate",
        picture=SWEEP,
        model=stated_model(model),
        device=model.pipeline._execution_device.type,
        dtype=model.dtype,
        request=settings.recipe(),
        inputs=stated_files(settings.layouts),
    )
    return SweepResult(
        axes=axes,
        picture=None,
        source=source,
        targets=tuple(
            TargetSweep(
                prompt=prompt,
                uncontrolled=plain[number],
                cells={cell: pictures[number] for cell, pictures in cells.items()},
            )
            for number, prompt in enumerate(settings.target_prompts)
        ),
        recipe=_recipe(plain_run, axes),
        seconds=time.perf_counter() - started,
        passes=settings.steps * branches * runs,
    )


def _generated(
    model: LoadedModel,
    settings: ResolvedRequest,
    axes: Axes,
    on_step: Callable[[StepRecord], None] | None,
    stop: Callable[[], bool] | None,
) -> tuple[Image.Image, tuple[Image.Image, ...], dict[tuple[int, int], tuple[Image.Image, ...]]]:
    """The source, the targets without control, and the targets of every cell."""
    pipeline, targets = model.pipeline, settings.target_prompts
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
    return source, plain, cells


def _check_method(method: str) -> None:
    if method != "masactrl":
        raise ConfigError(f"S and L belong to the method masactrl, not to {method}.")


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
        warnings.warn(message, category, stacklevel=4)


def _there(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise MasaCtrlError("The first cell was made without its comparison.")
    return picture
