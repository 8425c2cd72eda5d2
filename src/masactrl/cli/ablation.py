"""`masactrl bench ablation`: what S, L, places and masks do, as figures; the paper's ablations."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from masactrl.cli.asked import asked_of
from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import Output
from masactrl.errors import ConfigError
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import prepare_folder
from masactrl.settings.shared import RunSettings


@takes(
    only(EditRequest, "target_prompts"),
    only(InversionRequest, "source_prompt"),
    only(GenerateRequest, "seed"),
    RunSettings,
    only(GenerateRequest, "guidance_scale", "start_step", "start_layer"),
    LayoutWords,
    only(ModelSpec, "model", "loras", "device", "dtype"),
    only(Output, "out", "overwrite"),
)
def ablation(
    given: Given,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A prompt, or the file of a picture.")
    ],
    word: Annotated[
        str | None,
        typer.Option(
            "--mask-word",
            help="The subject, a word of --to and of the source's prompt: adds a row with and "
            "without masks.",
            show_default="no such row",
        ),
    ] = None,
) -> None:
    """Make the same edit with another starting step, starting layer, place, and with masks.

    Writes a figure a row, as PNG and SVG. S and L are those that are not varied.

    Example: masactrl bench ablation "a cat standing" --to "a cat running" --mask-word cat -o out
    """
    if len(given["to"]) != 1:
        raise ConfigError(f"An ablation has one --to and {len(given['to'])} were given.")
    written = given.build(Output)
    with quiet_libraries():
        asked = asked_of(given, source, layouts=given.build(LayoutWords).layouts())

        from masactrl.studies.ablation import ablate, figure_names

        names = figure_names(masks=word is not None)
        prepare_folder(written.out, names, overwrite=written.overwrite)
        # A picture that was inverted without a prompt has no word for its subject.
        said = None if asked.inversion is not None and not asked.inversion.source_prompt else word
        loaded = given.build(ModelSpec).load()
        with _waiting():
            words = None if word is None else (said, word)
            result = ablate(asked.open(loaded), asked.request, words=words)
        paths = result.save(written.out, overwrite=written.overwrite)
    for path in paths:
        output().print(str(path), highlight=False, soft_wrap=True, markup=False)


def _waiting() -> Progress:
    """A sign of life, on a terminal only."""
    console = Console(stderr=True)
    shown = Progress(
        SpinnerColumn(),
        TextColumn("Making every picture of the figures"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    shown.add_task("")
    return shown
