"""What `masactrl compare` does once its words are understood: from a prompt, or from a photo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from masactrl.cli.console import finishing, output, progress
from masactrl.cli.plan import show_lines
from masactrl.runs.request import GenerateRequest
from masactrl.studies.compare import (
    COMPARED,
    COMPARED_FLOWS,
    COMPARISON,
    check_compared,
    compared_by,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from masactrl.models import LoadedModel
    from masactrl.runs.asked import Asked
    from masactrl.runs.recipe import Recipe
    from masactrl.studies.compare import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRun:
    """What is compared.

    Attributes:
        source: as it was given, a prompt or the path of a picture.
        asked: of it.
        seed: of methods that draw noise.
        methods, options: see `masactrl.studies.compare.compare`.
    """

    source: str
    asked: Asked
    seed: int
    methods: tuple[str, ...] | None
    options: Mapping[str, Mapping[str, Any]]

    def check(self) -> None:
        """Refuse what cannot be, before a model is loaded; `ConfigError`."""
        for name in self.methods or COMPARED:
            GenerateRequest(source_prompt="-", target_prompts=("-",), method=name)
        check_compared(self.asked.request, self.methods or COMPARED, self.options)

    def names(self) -> list[str]:
        """Return the names of the pictures that will be written."""
        usual = tuple(dict.fromkeys((*COMPARED, *COMPARED_FLOWS)))  # whatever the model will be
        names = [COMPARISON, "source", "fixed-seed", *(self.methods or usual)]
        return names if self.asked.picture is None else [*names, "reconstruction"]

    def of(self, model: LoadedModel) -> CompareRun:
        """Return the comparison with the methods of the model's kind, where none are named.

        A photo's are left to the study where it may leave some out.
        """
        if self.methods or (self.asked.picture is not None and model.kind == "diffusion"):
            return self
        return replace(self, methods=compared_by(model))

    def run(self, model: LoadedModel) -> tuple[Comparison, Recipe, bool]:
        """Make the comparison; also say how it was made, and whether somebody interrupted it."""
        if (own := self.of(model)) is not self:
            return own.run(model)
        with finishing(Console(stderr=True)) as stopping:
            return *self._made(model, stopping), stopping()

    def _told(self, result: Comparison) -> dict[str, Any]:
        """Return the methods that were made and their options, for the recipe."""
        methods = result.methods()
        options = {name: one for name, one in self.options.items() if name in methods}
        return {"methods": methods, "options": options}

    def calls(self, model: LoadedModel) -> int:
        """Return the denoising steps of all that will be run; raises what that would raise."""
        from masactrl.studies.compare import compared_calls

        request = self.asked.request
        if isinstance(request, GenerateRequest):
            return request.resolve(model.preset).steps * len(self.methods or COMPARED)
        ask = partial(self.asked.plan, model)
        calls = compared_calls(ask, request, methods=self.methods, options=self.options)
        return self.asked.inversion_steps(model) + calls

    def _made(self, model: LoadedModel, stop: Callable[[], bool]) -> tuple[Comparison, Recipe]:
        from masactrl.studies.compare import compare, comparison_recipe

        seed = 0 if self.asked.picture is None else self.seed
        with progress(Console(stderr=True), "Denoising", self.calls(model)) as on_step:
            source = self.asked.open(model, on_step)
            result = compare(
                source,
                self.asked.request,
                methods=self.methods,
                options=self.options,
                seed=seed,
                on_step=on_step,
                stop=stop,
            )
        recipe = comparison_recipe(source, self.asked.request, **self._told(result), seed=seed)
        return result, recipe


def show_compare_plan(run: CompareRun, model: LoadedModel, out: Path, *, as_json: bool) -> None:
    """Print what a comparison would make and cost; nothing is run."""
    run = run.of(model)
    told = {
        "model": model.name,
        "source": run.source,
        "target": run.asked.request.target_prompts[0],
        "methods": list(run.methods or COMPARED),
        "steps_in_all": run.calls(model),
        "folder": str(out),
        "pictures": [f"{name}.png" for name in run.names()],
    }
    if as_json:
        typer.echo(json.dumps({"plan": told}, indent=2))
    else:
        show_lines(told)


def described(result: Comparison, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the comparison as values that JSON knows."""
    return {
        "source_prompt": result.source_prompt,
        "target_prompt": result.target_prompt,
        "sheet": str(paths[0]),
        "columns": [
            {
                "method": column.method,
                "picture": str(path),
                "note": column.note,
                "seconds": None if column.seconds is None else round(column.seconds, 3),
                "figures": None if column.figures is None else asdict(column.figures),
            }
            for column, path in zip(result.columns, paths[1:], strict=True)
        ],
        "left_out": [{"method": name, "reason": reason} for name, reason in result.left_out],
        "inversion_seconds": result.inversion_seconds,
    }


def report(result: Comparison, sheet: Path) -> None:
    """Print the table of figures and seconds, and where the sheet is."""
    table = Table(title=f"{result.source_prompt or 'the picture'} -> {result.target_prompt}")
    table.add_column("method")
    table.add_column("the inspector sees")
    for heading in ("identity error", "background dB", "seconds"):
        table.add_column(heading, justify="right")
    for column in result.columns:
        figures = column.figures
        table.add_row(
            f"{column.title}, {column.note}" if column.note else column.title,
            "-" if figures is None else figures.seen,
            "-" if figures is None else f"{figures.identity_error:.1f}",
            "-" if figures is None else f"{figures.background:.1f}",
            "-" if column.seconds is None else f"{column.seconds:.1f}",
        )
    console = output()
    console.print(table)
    seconds = "Seconds are those of one target together with its source and the picture without "
    seconds += "control."
    if result.inversion_seconds is not None:
        seconds = "Seconds are those of one target and what it reads of the source; the inversion "
        seconds += f"took {result.inversion_seconds:.1f} s, once for all."
    lines = [
        "Identity error: coat and pattern against the source, 0 is the same animal. " + seconds,
        *(f"Left out: {reason}" for _, reason in result.left_out),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(str(sheet), highlight=False, soft_wrap=True, markup=False)
