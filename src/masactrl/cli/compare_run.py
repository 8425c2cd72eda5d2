"""What `masactrl compare` does once its words are understood: from a prompt, or from a photo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from masactrl.cli.console import finishing, output, progress
from masactrl.cli.parsing import parse_photo
from masactrl.cli.plan import show_lines
from masactrl.errors import ConfigError
from masactrl.runs.request import GenerateRequest
from masactrl.studies.compare import COMPARED, COMPARISON, check_compared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from masactrl.models import LoadedModel
    from masactrl.runs.invert import EditRequest, InversionRequest
    from masactrl.runs.layout import Layout
    from masactrl.runs.recipe import Recipe
    from masactrl.studies.compare import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The words of the command; fields as its options, `prompt` is --from, None the model's own."""

    source: str
    prompt: str
    target: str
    inversion: str
    seed: int | None
    steps: int | None
    cfg: float | None
    negative: str
    size: tuple[int, int] | None
    start_step: int | None
    start_layer: int | None
    methods: tuple[str, ...] | None
    options: Mapping[str, Mapping[str, Any]]
    layouts: tuple[Layout, ...]

    @property
    def photo(self) -> Path | None:
        """The picture that SOURCE names; None for a prompt."""
        return parse_photo(self.source)

    def check(self) -> None:
        """Refuse what cannot be, before a model is loaded; `ConfigError`."""
        for name in self.methods or COMPARED:
            GenerateRequest(source_prompt="-", target_prompts=("-",), method=name)
        if self.photo is None:
            if self.prompt or self.inversion != "direct":
                raise ConfigError(
                    "--from and --inversion belong to a picture, and SOURCE is taken for a prompt; "
                    "leave them out, or give the file of a picture."
                )
            check_compared(self._words(), self.methods or COMPARED, self.options)
            return
        if self.size is not None:
            raise ConfigError("--size belongs to a prompt; a picture has its own.")
        check_compared(self._picture()[1], self.methods or COMPARED, self.options)
        from masactrl.pictures.input import read_picture

        read_picture(self.photo)

    def names(self) -> list[str]:
        """Return the names of the pictures that will be written."""
        names = [COMPARISON, "source", "fixed-seed", *(self.methods or COMPARED)]
        return names if self.photo is None else [*names, "reconstruction"]

    def run(self, model: LoadedModel) -> tuple[Comparison, Recipe, bool]:
        """Make the comparison; also say how it was made, and whether somebody interrupted it."""
        with finishing(Console(stderr=True)) as stopping:
            made = self._from_words if self.photo is None else self._from_photo
            return *made(model, stopping), stopping()

    def _made(self, result: Comparison) -> dict[str, Any]:
        """Return the methods that were made and their options, for the recipe."""
        methods = result.methods()
        options = {name: one for name, one in self.options.items() if name in methods}
        return {"methods": methods, "options": options}

    def calls(self, model: LoadedModel) -> int:
        """Return the denoising steps of all that will be run; raises what that would raise."""
        from masactrl.runs.invert import plan
        from masactrl.studies.compare_edited import compared_calls

        if self.photo is None:
            return self._words().resolve(model.preset).steps * len(self.methods or COMPARED)
        inversion, request = self._picture()
        ask = partial(plan, model, self.source, inversion)
        calls = compared_calls(ask, request, methods=self.methods, options=self.options)
        return (inversion.steps or model.preset.steps) + calls

    def _words(self) -> GenerateRequest:
        width, height = self.size or (None, None)
        return GenerateRequest(
            source_prompt=self.source,
            target_prompts=(self.target,),
            seed=self.seed or 0,
            steps=self.steps,
            guidance_scale=self.cfg,
            negative_prompt=self.negative,
            start_step=self.start_step,
            start_layer=self.start_layer,
            height=height,
            width=width,
            layouts=self.layouts,
        )

    def _picture(self) -> tuple[InversionRequest, EditRequest]:
        from masactrl.runs.inversion_request import draws_noise
        from masactrl.runs.invert import EditRequest, InversionRequest

        inversion = InversionRequest(
            prompt=self.prompt,
            method=self.inversion,
            steps=self.steps,
            seed=self.seed if draws_noise(self.inversion) else None,
        )
        request = EditRequest(
            target_prompts=(self.target,),
            guidance_scale=self.cfg,
            negative_prompt=self.negative or None,
            start_step=self.start_step,
            start_layer=self.start_layer,
            layouts=self.layouts,
        )
        return inversion, request

    def _from_words(
        self, model: LoadedModel, stop: Callable[[], bool]
    ) -> tuple[Comparison, Recipe]:
        from masactrl.studies.compare import compare_generated, comparison_recipe

        request, names = self._words(), self.methods or COMPARED
        with progress(Console(stderr=True), "Denoising", self.calls(model)) as on_step:
            result = compare_generated(
                model, request, methods=names, options=self.options, on_step=on_step, stop=stop
            )
        return result, comparison_recipe(model, request, **self._made(result))

    def _from_photo(
        self, model: LoadedModel, stop: Callable[[], bool]
    ) -> tuple[Comparison, Recipe]:
        from masactrl.runs.invert import invert
        from masactrl.studies.compare_edited import compare_edited, edited_recipe

        inversion, request = self._picture()
        chosen: dict[str, Any] = {"methods": self.methods, "options": self.options}
        with progress(Console(stderr=True), "Denoising", self.calls(model)) as on_step:
            session = invert(model, self.source, inversion, on_step=on_step)
            seed = self.seed or 0
            result = compare_edited(
                session, request, **chosen, seed=seed, on_step=on_step, stop=stop
            )
        return result, edited_recipe(session, request, **self._made(result), seed=seed)


def show_compare_plan(asked: Asked, model: LoadedModel, out: Path, *, as_json: bool) -> None:
    """Print what a comparison would make and cost; nothing is run."""
    told = {
        "model": model.name,
        "source": asked.source,
        "target": asked.target,
        "methods": list(asked.methods or COMPARED),
        "steps_in_all": asked.calls(model),
        "folder": str(out),
        "pictures": [f"{name}.png" for name in asked.names()],
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
