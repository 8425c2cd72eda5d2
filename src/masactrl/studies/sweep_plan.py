"""What a sweep will cost, before it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from masactrl.attention import Schedule, find_layers
from masactrl.studies.source import study_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import UNet2DConditionModel

    from masactrl.models import ModelPreset
    from masactrl.runs.cost import EditPlan
    from masactrl.runs.edit_request import EditRequest
    from masactrl.studies.axes import Axes
    from masactrl.studies.source import Request, Source

__all__ = ["check_axes", "generated_calls", "planned_calls", "sweep_calls"]


def check_axes(unet: UNet2DConditionModel, axes: Axes, steps: int) -> None:
    """Refuse axes that do not fit a run of so many steps, before it begins.

    Raises:
        ScheduleError: an S or L is beyond the run or the model.
    """
    layers = find_layers(unet)
    for start_step, start_layer in axes.cells():
        Schedule(start_layer=start_layer).resolve_layers(layers)
        Schedule(start_step=start_step).resolve_steps([0.0] * steps)


def generated_calls(steps: int, axes: Axes) -> int:
    """Return the U-Net calls of a sweep from words: source, targets without control, every cell."""
    return steps * (2 + len(axes.cells()))


def planned_calls(
    plan: Callable[[EditRequest], EditPlan],
    request: EditRequest,
    axes: Axes,
    *,
    preset: ModelPreset,
    steps: int,
) -> int:
    """Return the U-Net calls of a sweep of a picture without its inversion, at most.

    Args:
        plan: says what an edit costs: `EditSession.plan`, or `runs.invert.plan` with all but the
            edit, before there is a session.
        request: the targets.
        axes: what is tried.
        preset: of the model.
        steps: of the inversion.

    Raises:
        ScheduleError: an S or L is beyond the steps of the run or the layers of the model.
    """
    settings = request.resolve(preset, steps)
    axes = axes.filled(settings.start_step, settings.start_layer)
    costs = [
        plan(replace(request, start_step=start_step, start_layer=start_layer)).calls
        for start_step, start_layer in sorted(axes.cells())
    ]
    # The first cell records the source for all others.
    return costs[0] + steps * (len(costs) - 1)


def sweep_calls(source: Source, request: Request, axes: Axes) -> int:
    """Return how many U-Net calls `sweep` will make at most, for a progress bar."""
    study = study_of(source, request)
    settings = study.settings
    if study.session is None:
        return generated_calls(
            settings.steps, axes.filled(settings.start_step, settings.start_layer)
        )
    return planned_calls(
        study.session.plan,
        study.request,
        axes,
        preset=study.model.preset,
        steps=settings.steps,
    )
