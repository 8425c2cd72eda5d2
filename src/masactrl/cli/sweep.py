"""`masactrl sweep`: the same edit for every S and L, as one figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from masactrl.cli.asked import asked_of
from masactrl.cli.console import quiet_libraries
from masactrl.cli.declared import Given, only, parameter_of, takes
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import PlanOption, SizeOption
from masactrl.cli.output import Output
from masactrl.cli.sweep_run import SweepRun, run_sweeps, show_sweep_plans
from masactrl.errors import ConfigError
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import prepare_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from masactrl.runs.asked import Asked
    from masactrl.studies.axes import Axes


@takes(
    only(EditRequest, "target_prompts", "guidance_scale", "form", "strength", "negative_prompt"),
    only(EditRequest, "fresh_noise"),
    only(GenerateRequest, "seed"),
    InversionRequest,
    LayoutWords,
    ModelSpec,
    Output,
)
def sweep(
    context: typer.Context,
    given: Given,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PICTURE] AXIS=VALUES...",
            help="The picture (none with --source), and the axes: start-step (S) and start-layer "
            "(L), with values like 8,10,12 or 2-8(+2), which is 2,4,6,8; up to 400 cells. Any "
            "other setting that is a number or a choice, such as cfg=4,7.5, makes a grid for each "
            "value, in a folder of its own.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT",
            help="Make the source from this prompt, in place of a picture.",
            show_default="none",
        ),
    ] = None,
    size: SizeOption = None,
    config: ConfigOption = None,
    plan: PlanOption = False,
) -> None:
    """Make the same edit with every S and L, or other settings, and show them as one figure.

    An axis that is left out has the model's value. The source is recorded once for all cells.

    Ctrl-C finishes the cell at hand and keeps what is done; a second Ctrl-C stops at once.

    Example: masactrl sweep photo.png "start-step=2-8(+2)" start-layer=8,10,12
    --to "a photo of a running corgi" -o out

    Example: masactrl sweep start-step=5,10,20 --source "a cat sitting in the snow"
    --to "a cat running in the snow" -o out

    Example: masactrl sweep cfg=2,4,8 clip-skip=0,1 --source "a cat sitting in the snow"
    --to "a cat running in the snow" -o out
    """
    del config  # was read before the other options
    from masactrl.studies.axes import parse_axes
    from masactrl.studies.sweep_grids import grid_name
    from masactrl.studies.sweep_result import SWEEP, sweep_names

    picture, axes = _picture(words), parse_axes([word for word in words if _is_axis(word)])
    if (picture is None) == (source is None):
        one = "Neither is" if source is None else "Both are"
        raise ConfigError(f"The source is a picture or --source PROMPT. {one} given; give one.")
    spec, written = given.build(ModelSpec), given.build(Output)
    with quiet_libraries():
        layouts = given.build(LayoutWords).layouts()
        asked = asked_of(given, picture or source or "", size=size, layouts=layouts)
        kinds = [type(one) for one in (asked.inversion, asked.request) if one is not None]
        _check_others(context, axes, *kinds)
        runs = [
            SweepRun(values=one, asked=_with(asked, one), out=written.out / grid_name(one))
            for one in axes.runs()
        ]
        # Before the model is loaded: nobody should wait for pictures that cannot be kept.
        if not plan:
            count = len(given["to"])
            prepare_folder(written.out, [SWEEP], overwrite=written.overwrite)
            for run in runs:
                prepare_folder(run.out, sweep_names(count, axes), overwrite=written.overwrite)
        loaded = spec.load()
        if plan:
            show_sweep_plans(loaded, runs, axes.grid, as_json=written.as_json)
            return
        run_sweeps(loaded, runs, axes.grid, written)


def _check_others(context: typer.Context, axes: Axes, *requests: type) -> None:
    """Refuse axes that this kind of source has no setting for, or that an option says, too."""
    from masactrl.studies.sweep_grids import check_others

    check_others(axes, *requests)
    for name, _ in axes.others:
        said = context.get_parameter_source(parameter_of(name))
        if said is not None and said.name != "DEFAULT":
            raise ConfigError(f"--{name} and the axis {name} are both given; give one of them.")


def _with(asked: Asked, values: Mapping[str, Any]) -> Asked:
    from masactrl.studies.sweep_grids import with_values

    made = replace(asked, request=with_values(asked.request, values))
    if made.inversion is None:
        return made
    return replace(made, inversion=with_values(made.inversion, values))


def _is_axis(word: str) -> bool:
    """A word with an equals sign is an axis, unless a file has this name."""
    return "=" in word and not Path(word).exists()


def _picture(words: Sequence[str]) -> Path | None:
    """Return the one word that is no axis."""
    pictures = [word for word in words if not _is_axis(word)]
    if len(pictures) > 1:
        raise ConfigError(
            f"{' and '.join(pictures)} are given; a sweep has one picture, and axes like "
            "start-step=2-8(+2)."
        )
    return Path(pictures[0]) if pictures else None
