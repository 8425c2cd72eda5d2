"""`masactrl generate`: a source picture and its targets, from words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from masactrl.cli.console import finishing, interrupted, output, progress, quiet_libraries
from masactrl.cli.declared import Given, takes
from masactrl.cli.job import ConfigOption
from masactrl.cli.like import LikeOption
from masactrl.cli.options import PlanOption, SizeOption
from masactrl.cli.output import Output
from masactrl.cli.parsing import parse_seeds, parse_size
from masactrl.cli.plan import show_plan
from masactrl.runs.generate import generate as run
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import SHEET, GenerateResult, picture_names, prepare_folder

if TYPE_CHECKING:
    from collections.abc import Sequence


@takes(GenerateRequest, LayoutWords, ModelSpec, Output)
def generate(
    context: typer.Context,
    given: Given,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Several runs, such as 1,2,5-8, at most 1000; each goes into a folder seed-N of "
            "the output folder.",
            show_default="one run",
        ),
    ] = None,
    size: SizeOption = None,
    like: LikeOption = None,
    config: ConfigOption = None,
    plan: PlanOption = False,
) -> None:
    """Make a picture, and more pictures of the same subject doing something else.

    For every target there are two pictures from the same start noise, without and with control.

    Ctrl-C finishes the run at hand and keeps what is done; a second Ctrl-C stops at once.

    Example: masactrl generate "a cat standing in the meadow" --to "a cat running in the meadow"
    --seed 7 -o out
    """
    del like, config  # were read before the other options
    width, height = (None, None) if size is None else parse_size(size)
    chosen = _seeds(context, given["seed"], seeds)
    with quiet_libraries():
        layouts = given.build(LayoutWords).layouts()
    request = given.build(
        GenerateRequest, seed=chosen[0], width=width, height=height, layouts=layouts
    )
    spec, written = given.build(ModelSpec), given.build(Output)
    several = seeds is not None and len(chosen) > 1
    runs = [
        (replace(request, seed=one), written.out / f"seed-{one}" if several else written.out)
        for one in chosen
    ]
    if plan:
        show_plan(runs, model=spec.model, allow_pickle=spec.allow_pickle, as_json=written.as_json)
        return
    # Before the model is loaded: nobody should wait for pictures that cannot be kept.
    for _, folder in runs:
        names = [*picture_names(len(request.target_prompts)), SHEET]
        prepare_folder(folder, names, overwrite=written.overwrite)
    done: list[tuple[GenerateResult, tuple[Path, ...]]] = []
    errors = Console(stderr=True)
    with quiet_libraries():
        loaded = spec.load()
        total = request.resolve(loaded.preset).steps * len(runs)
        with finishing(errors) as stopping, progress(errors, "Denoising", total) as on_step:
            for one, folder in runs:
                result = run(loaded, one, on_step=on_step)
                paths = result.save(folder, overwrite=written.overwrite, metadata=written.metadata)
                done.append((result, paths))
                if stopped := stopping():
                    break
    if written.as_json:
        told = [_described(*each) for each in done]
        typer.echo(json.dumps({"runs": told} if several else told[0], indent=2))
    else:
        for each in done:
            _report(*each)
    if stopped:
        interrupted(f"{len(done)} of {len(runs)} runs are done")


def _seeds(context: typer.Context, seed: int | None, seeds: str | None) -> tuple[int, ...]:
    """Return the seeds of all runs; what was said on the command line wins over the file."""
    if seed is not None and seeds is not None:
        typed = [context.get_parameter_source(name) for name in ("seed", "seeds")]
        names = [getattr(one, "name", "") for one in typed]
        if names[0] == names[1]:
            raise typer.BadParameter("--seed and --seeds are both given; give one of them.")
        seeds = seeds if names[1] == "COMMANDLINE" else None
    if seeds is not None:
        return parse_seeds(seeds)
    return (0 if seed is None else seed,)


def _described(result: GenerateResult, paths: Sequence[Path]) -> dict[str, object]:
    """Return the result as values that JSON knows."""
    return {
        "model": result.model,
        "device": result.device,
        "dtype": result.dtype,
        "seconds": round(result.seconds, 3),
        "request": result.request.recipe(),
        "pictures": {path.stem: str(path) for path in paths},
        "warnings": list(result.warnings),
    }


def _report(result: GenerateResult, paths: Sequence[Path]) -> None:
    """Print how the pictures were made, and where they are."""
    console = output()
    made = result.request
    control = f"S={made.start_step}, L={made.start_layer}"
    if made.method != "masactrl":
        control = " ".join(
            [made.method, *(f"{name}={value}" for name, value in made.method_options)]
        )
    console.print(
        f"{result.model} on {result.device} ({result.dtype}): {made.width}x{made.height}, "
        f"{made.steps} steps, guidance {made.guidance_scale:g}, {control}, seed {made.seed}, "
        f"{result.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
