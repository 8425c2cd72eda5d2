"""`masactrl sweep`: the same edit for every S and L, as one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from masactrl.cli.console import quiet_libraries
from masactrl.cli.edit_options import (
    Fit,
    FitOption,
    FreshOption,
    IterationsOption,
    ReplayOption,
    SourceCfgOption,
)
from masactrl.cli.job import ConfigOption
from masactrl.cli.model import load_model
from masactrl.cli.options import (
    SEEDS,
    CfgOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    Form,
    FormOption,
    FromOption,
    Inversion,
    InversionOption,
    JsonOption,
    LoraOption,
    ModelOption,
    NoMetadataOption,
    Offload,
    OffloadOption,
    OutOption,
    OverwriteOption,
    PickleOption,
    PlanOption,
    RevisionOption,
    SizeOption,
    StepsOption,
    StrengthOption,
    ToOption,
)
from masactrl.cli.parsing import parse_size
from masactrl.cli.sweep_run import run_sweep, show_sweep_plan, tell_sweep
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.runs.invert import EditRequest, InversionRequest
    from masactrl.runs.request import GenerateRequest

_OF_PICTURES = {
    "shown": "--from",
    "inversion": "--inversion",
    "source_cfg": "--source-cfg",
    "replay": "--replay",
    "iterations": "--iterations",
    "fresh_steps": "--fresh-steps",
    "fit": "--fit",
}
"""What belongs to a picture that is inverted, and not to --source."""


def sweep(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PICTURE] AXIS=VALUES...",
            help="The picture (none with --source), and the axes: start-step (S) and start-layer "
            "(L), with values like 8,10,12 or 2-8(+2), which is 2,4,6,8; up to 400 cells.",
        ),
    ],
    to: ToOption,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT",
            help="Make the source from this prompt, in place of a picture.",
            show_default="none",
        ),
    ] = None,
    shown: FromOption = "",
    seed: Annotated[
        int | None,
        typer.Option(
            help=f"Of the start noise of --source, or of an inversion that draws noise; {SEEDS}.",
            show_default="0",
        ),
    ] = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT",
            help="What no target should show; with --source no picture.",
            show_default="nothing, or the inversion's",
        ),
    ] = None,
    size: SizeOption = None,
    form: FormOption = Form.REPLACE,
    strength: StrengthOption = 1.0,
    inversion: InversionOption = Inversion.DIRECT,
    source_cfg: SourceCfgOption = None,
    replay: ReplayOption = None,
    iterations: IterationsOption = None,
    fresh_steps: FreshOption = None,
    fit: FitOption = Fit.AUTO,
    model: ModelOption = "puppets",
    revision: RevisionOption = None,
    lora: LoraOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    offload: OffloadOption = Offload.NONE,
    allow_pickle: PickleOption = False,
    out: OutOption = Path("out"),
    config: ConfigOption = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
    no_metadata: NoMetadataOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make the same edit with every S and L, and show them as one figure.

    An axis that is left out has the model's value. The source is recorded once for all cells.

    Ctrl-C finishes the cell at hand and keeps what is done; a second Ctrl-C stops at once.

    Example: masactrl sweep photo.png "start-step=2-8(+2)" start-layer=8,10,12
    --to "a photo of a running corgi" -o out

    Example: masactrl sweep start-step=5,10,20 --source "a cat sitting in the snow"
    --to "a cat running in the snow" -o out
    """
    del config  # was read before the other options
    from masactrl.runs.result import prepare_folder
    from masactrl.studies.axes import parse_axes
    from masactrl.studies.sweep_result import sweep_names

    picture, axes = _picture(words), parse_axes([word for word in words if _is_axis(word)])
    _check_source(context, picture, source, size)
    common: dict[str, Any] = {
        "target_prompts": tuple(to),
        "guidance_scale": cfg,
        "form": form.value,
        "strength": strength,
    }
    with quiet_libraries():
        asked: GenerateRequest | tuple[Path, InversionRequest, EditRequest]
        if picture is None:
            asked = _generated(common, source or "", seed, steps, negative, size)
        else:
            inverted = {
                "prompt": shown,
                "method": inversion.value,
                "steps": steps,
                "guidance_scale": source_cfg,
                "replay": replay,
                "seed": seed,
                "iterations": iterations,
                "fresh_steps": fresh_steps,
                "fit": fit.value,
            }
            asked = (picture, *_edited(picture, inverted, {**common, "negative_prompt": negative}))
        # Before the model is loaded: nobody should wait for pictures that cannot be kept.
        if not plan:
            prepare_folder(out, sweep_names(len(to), axes), overwrite=overwrite)
        loaded = load_model(
            model,
            device=device,
            dtype=dtype,
            revision=revision,
            lora=lora,
            offload=offload,
            allow_pickle=allow_pickle,
        )
        if plan:
            show_sweep_plan(loaded, asked, axes, out, as_json=as_json)
            return
        result, stopped = run_sweep(loaded, asked, axes)
    paths = result.save(out, overwrite=overwrite, metadata=not no_metadata)
    tell_sweep(result, paths, stopped=stopped, as_json=as_json)


def _check_source(
    context: typer.Context, picture: Path | None, source: str | None, size: str | None
) -> None:
    """Refuse two sources or none, and what belongs to the other kind of source."""
    if (picture is None) == (source is None):
        given = "Neither is" if source is None else "Both are"
        raise ConfigError(f"The source is a picture or --source PROMPT. {given} given; give one.")
    if picture is not None:
        if size is not None:
            raise ConfigError("--size belongs to --source; results have the size of the picture.")
        return
    for name, flag in _OF_PICTURES.items():
        said = context.get_parameter_source(name)
        if said is not None and said.name != "DEFAULT":
            raise ConfigError(f"{flag} belongs to a picture, and --source was given; leave it out.")


def _generated(
    common: dict[str, Any],
    source: str,
    seed: int | None,
    steps: int | None,
    negative: str | None,
    size: str | None,
) -> GenerateRequest:
    from masactrl.runs.request import GenerateRequest

    width, height = (None, None) if size is None else parse_size(size)
    return GenerateRequest(
        source_prompt=source,
        seed=seed or 0,
        steps=steps,
        negative_prompt=negative or "",
        width=width,
        height=height,
        **common,
    )


def _edited(
    picture: Path, inverted: dict[str, Any], edited: dict[str, Any]
) -> tuple[InversionRequest, EditRequest]:
    from masactrl.pictures.input import read_picture
    from masactrl.runs.invert import EditRequest, InversionRequest

    read_picture(picture)  # so that a file that cannot be read is said at once
    return InversionRequest(**inverted), EditRequest(**edited)


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
