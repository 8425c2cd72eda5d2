"""`masactrl rerun`: make a picture again from what it says of itself, and say how close it came."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from masactrl.cli.console import (
    finishing,
    interrupted,
    output,
    progress,
    quiet_libraries,
    said,
)
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import OUTPUT, Output
from masactrl.errors import ConfigError, OutputError
from masactrl.pictures.images import save_png
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import MODEL, ModelSpec
from masactrl.runs.recipe import PARAMETERS_KEY, Recipe, find_recipe, stated_model, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.models import LoadedModel


@takes(
    only(ModelSpec, "loras", "device", "offload", "allow_pickle"),
    only(LayoutWords, "layout_model"),
    only(Output, "as_json", "no_metadata"),
)
def rerun(
    given: Given,
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG that masactrl made.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Where to write the new PNG.",
            show_default="nowhere",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Path of the model, where it was a folder or a file.",
            show_default="the recipe's, if it is the embedded one or a Hub id",
            rich_help_panel=MODEL,
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="PATH",
            help="Path of a picture that went in; repeat in the recipe's order.",
            show_default="none",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the file of --out.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Make a picture again from the recipe inside it, and say how close the new one came.

    On the same machine, with the same versions, it is the same to the bit. Nothing that a recipe
    names is looked for on this machine: a model folder, a LoRA or an input picture has to be given.

    Ctrl-C finishes the picture and keeps it; a second Ctrl-C stops at once.

    Example: masactrl rerun out/target1-controlled.png --input photo.png
    """
    recipe = Recipe.parse(find_recipe(picture))
    before = _opened(picture)
    if out is not None:
        _check_place(out, overwrite=overwrite)
    errors, written = Console(stderr=True), given.build(Output)
    with quiet_libraries():
        from masactrl.rerun import kinds

        kind = kinds.kind_of(recipe)
        networks = given.build(LayoutWords).networks()
        paths, changed = given_inputs(recipe, inputs or ())
        loaded = load_stated(recipe, model, given.build(ModelSpec))
        apart = [*changed, *differences(recipe, loaded)]
        for sentence in apart:
            said(errors, "Warning", sentence)
        with finishing(errors) as stopping:
            with progress(errors, "Denoising", kind.steps(recipe)) as on_step:
                after = kinds.rerun_recipe(
                    loaded,
                    recipe,
                    kinds.RerunInputs(inputs=paths, on_step=on_step, networks=networks),
                )
            close = kinds.compare(before, after)
            if out is not None:
                # The settings as other tools read them are those of the picture made again.
                same = before.info.get(PARAMETERS_KEY)
                text = {PARAMETERS_KEY: same} if isinstance(same, str) else {}
                if not written.metadata:
                    save_png(out, after)
                else:
                    save_png(out, after, recipe.to_json(), text=text)
            stopped = stopping()
    if written.as_json:
        told: dict[str, Any] = asdict(close)
        told["psnr"] = None if math.isinf(close.psnr) else close.psnr
        told["picture"] = None if out is None else str(out)
        typer.echo(json.dumps(told | {"differences": apart}, indent=2))
    else:
        output().print(close.sentence(), highlight=False, soft_wrap=True)
    if stopped:
        interrupted("the picture was finished first")


def _check_place(out: Path, *, overwrite: bool) -> None:
    """Make sure, before minutes are spent, that the new picture can be written."""
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already; choose another name or give --overwrite.")
    if not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written: there is no folder {out.parent}.")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out} cannot be written: {out.parent} cannot be written to.")


def _opened(path: Path) -> Image.Image:
    if path.suffix.lower() == ".json":
        raise ConfigError(f"{path} is a recipe without a picture; give the PNG to compare with.")
    with Image.open(path) as image:
        image.load()  # text chunks may follow the pixels
        opened = image.convert("RGB")
        opened.info = dict(image.info)
        return opened


def given_inputs(recipe: Recipe, given: Sequence[Path]) -> tuple[tuple[Path, ...], list[str]]:
    """Return the paths of the inputs, and a sentence for each that is not the recipe's."""
    from masactrl.models.origin import file_hash

    changed: list[str] = []

    if len(given) != len(recipe.inputs):
        names = ", ".join(one.name for one in recipe.inputs) or "none"
        raise ConfigError(
            f"The picture was made from {len(recipe.inputs)} inputs ({names}) and --input was "
            f"given {len(given)} times; give one path for each."
        )
    for path, stated in zip(given, recipe.inputs, strict=True):
        try:
            found = file_hash(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
        if found != stated.hash:
            changed.append(f"{path} is not the {stated.name} that the picture was made from.")
    return tuple(given), changed


def load_stated(recipe: Recipe, model: str | None, spec: ModelSpec) -> LoadedModel:
    """Load the recipe's model; what is local is taken from the command line only.

    Args:
        recipe: what was made.
        model: word of --model.
        spec: the other options of the model.
    """
    from masactrl.models import choose_device
    from masactrl.rerun.kinds import hub_id

    stated = recipe.model
    named = model or hub_id(recipe)
    if named is None:
        raise ConfigError(
            f"The picture was made with {stated.name!r}, a {stated.kind} of its maker; say where "
            "it is with --model PATH."
        )
    if len(spec.loras) != len(stated.loras):
        names = ", ".join(f"{one.name}:{one.scale:g}" for one in stated.loras) or "none"
        raise ConfigError(
            f"The picture was made with {len(stated.loras)} LoRAs ({names}) and --lora was given "
            f"{len(spec.loras)} times; give one path for each."
        )
    # The recipe's precision, unless this device lacks it: then the difference is said.
    chosen = choose_device(spec.device)
    auto = recipe.dtype == "float16" and chosen.type == "cpu"
    dtype: Any = "auto" if auto else recipe.dtype
    revision = stated.revision if model is None and stated.kind == "hub" else None
    few: Any = spec.recipe if spec.recipe != "auto" else stated.recipe or "none"
    # Graphs make the same picture as none, and want a GPU.
    compiled: Any = stated.compiled if stated.compiled == "kernels" else "none"
    again = replace(spec, model=named, dtype=dtype, revision=revision, recipe=few)
    return replace(again, compiled=compiled).load()


def differences(recipe: Recipe, model: LoadedModel) -> list[str]:
    """Return a sentence for everything that lets one expect another picture than the recipe's."""
    found = []
    now, then = stated_model(model), recipe.model
    device = model.pipeline._execution_device.type
    if now.weights != then.weights and model.dtype == recipe.dtype and then.weights:
        found.append(f"The weights of {model.name} are not those that made the picture.")
    if [(one.hash, one.scale) for one in now.loras] != [(o.hash, o.scale) for o in then.loras]:
        found.append("The LoRAs or their scales are not those that made the picture.")
    for name, was, is_now in (
        ("device", recipe.device, device),
        ("precision", recipe.dtype, model.dtype),
    ):
        if was != is_now:
            found.append(f"The picture was made with {name} {was}; this run has {is_now}.")
    for name, here in versions().items():
        was = str(recipe.versions.get(name, "unknown"))
        if was != here:
            found.append(f"The picture was made with {name} {was}; this run has {here}.")
    return found
