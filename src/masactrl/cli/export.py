"""`masactrl export`: the model in a form that other programs load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import Output
from masactrl.runs.model_spec import ModelSpec


@takes(only(ModelSpec, "model", "revision", "allow_pickle"), only(Output, "as_json"))
def export(
    given: Given,
    single_file: Annotated[
        Path,
        typer.Option("--single-file", metavar="FILE", help="The .safetensors file to write."),
    ],
    half: Annotated[
        bool | None,
        typer.Option(
            "--half/--as-loaded",
            help="float16, or the precision of the model's own files.",
            show_default="float16 where nothing is lost",
        ),
    ] = None,
) -> None:
    """Write the model as one file, as ComfyUI and web UIs load it.

    What describes it (configurations, tokenizer, preset) is in the file's header, so that --model
    FILE needs nothing else. ComfyUI loads models of the usual sizes with its own loader; for the
    embedded model the nodes of integrations/comfyui have one.

    Example: masactrl export --model puppets --single-file puppets.safetensors
    """
    with quiet_libraries():
        from masactrl.models import export_single_file

        model = ModelSpec(**{**given.values(ModelSpec), "device": "cpu", "dtype": "float32"}).load()
        path = export_single_file(model, single_file, half=half)
    size = path.stat().st_size
    if given.build(Output).as_json:
        typer.echo(json.dumps({"file": str(path), "bytes": size}))
    else:
        output().print(f"{path} ({size / 1e6:.1f} MB)")
