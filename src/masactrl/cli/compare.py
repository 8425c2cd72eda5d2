"""`masactrl compare`: one source, one target prompt, one column a method."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from masactrl.cli.asked import asked_of
from masactrl.cli.compare_run import CompareRun, described, report, show_compare_plan
from masactrl.cli.console import interrupted, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import PlanOption, SizeOption
from masactrl.cli.output import Output
from masactrl.pictures.files import write_text
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest, draws_noise
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import prepare_folder, write_pictures
from masactrl.settings.shared import CONTROL, RunSettings, parse_options
from masactrl.studies.compare import COMPARED, COMPARED_FLOWS, COMPARISON

if TYPE_CHECKING:
    from collections.abc import Sequence


@takes(
    only(InversionRequest, "source_prompt", "method"),
    only(GenerateRequest, "seed"),
    RunSettings,
    only(GenerateRequest, "guidance_scale", "negative_prompt", "start_step", "start_layer"),
    only(EditRequest, "fresh_noise"),
    LayoutWords,
    ModelSpec,
    Output,
)
def compare(
    given: Given,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="What the source shows, or a photo's file.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="PROMPT", help="What the target shows.")],
    size: SizeOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help=f"A method to compare; repeat for more. All are: {', '.join(COMPARED)}, "
            f"style-aligned; of SD3 and FLUX: {', '.join(COMPARED_FLOWS)}. The picture without "
            "control is always there.",
            show_default=f"{', '.join(COMPARED)}; SD3, FLUX: all theirs",
            rich_help_panel=CONTROL,
        ),
    ] = None,
    method_option: Annotated[
        list[str] | None,
        typer.Option(
            "--method-option",
            metavar="METHOD.NAME=VALUE",
            help="An option of one method, such as sdedit.strength=0.5; repeat for more.",
            show_default="none",
            rich_help_panel=CONTROL,
        ),
    ] = None,
    config: ConfigOption = None,
    plan: PlanOption = False,
) -> None:
    """Show what every method makes of the same source, side by side, with figures and seconds.

    SOURCE is a prompt, or the file of a picture, which is inverted once for all methods; --from
    says what it shows, which Prompt-to-Prompt and the unified control need. S and L are those of
    masactrl. Figures are read by the embedded inspector, so only with the embedded model.

    Ctrl-C finishes the method at hand and keeps what is done; a second Ctrl-C stops at once.

    Example: masactrl compare "a cat standing in the meadow" --to "a cat running in the meadow"
    """
    del config  # was read before the other options
    with quiet_libraries():
        layouts = given.build(LayoutWords).layouts()
        # The seed is that of methods that draw noise, too; not every inversion has use for one.
        drawn = draws_noise(given["inversion"])
        asked = asked_of(
            given,
            source,
            size=size,
            inversion={} if drawn else {"seed": None},
            target_prompts=(to,),
            method="masactrl",
            method_options=(),
            layouts=layouts,
        )
    run = CompareRun(
        source=source,
        asked=asked,
        seed=given["seed"] or 0,
        methods=None if method is None else tuple(method),
        options=_by_method(method_option or ()),
    )
    run.check()
    spec, written = given.build(ModelSpec), given.build(Output)
    if not plan:
        prepare_folder(written.out, run.names(), overwrite=written.overwrite)
    with quiet_libraries():
        loaded = spec.load()
        if plan:
            show_compare_plan(run, loaded, written.out, as_json=written.as_json)
            return
        result, recipe, stopped = run.run(loaded)
    kept = recipe if written.metadata else None
    paths = write_pictures(written.out, result.pictures(), kept, prompts=result.prompts())
    write_text(written.out / f"{COMPARISON}.svg", result.to_figure().to_svg())
    if written.as_json:
        typer.echo(json.dumps(described(result, paths), indent=2))
    else:
        report(result, paths[0])
    if stopped:
        count = len(result.methods())
        interrupted(f"{count} of {count + len(result.unmade)} methods are done")


def _by_method(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options written METHOD.NAME=VALUE."""
    options: dict[str, dict[str, Any]] = {}
    for name, value in parse_options(words).items():
        method, dot, field = name.partition(".")
        if not dot or not field:
            raise typer.BadParameter(
                f"{name!r} names no method; write METHOD.NAME=VALUE, like sdedit.strength=0.5."
            )
        options.setdefault(method.replace("_", "-"), {})[field] = value
    return options
