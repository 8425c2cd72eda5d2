"""`--plan`: what a command would make, before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from masactrl.cli.console import output, quiet_libraries
from masactrl.runs.result import SHEET, picture_names
from masactrl.settings.declare import OF_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from masactrl.runs.request import GenerateRequest


def show_plan(
    requests: Sequence[tuple[GenerateRequest, Path]],
    *,
    model: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Print what the runs of one `masactrl generate` would make.

    Args:
        requests: every run and its folder; they differ in the seed only.
        model: words of --model.
        allow_pickle: see `masactrl.models.load_pipeline`.
        as_json: whether to print JSON.
    """
    with quiet_libraries():
        from masactrl.models.preview import preview

        preset = preview(model, allow_pickle=allow_pickle)
    first = requests[0][0]
    open_yet = asdict(replace(first, layouts=()))
    settings: dict[str, Any] = open_yet if preset is None else first.resolve(preset).recipe()
    settings.pop("layouts", None)
    settings.pop("seed")
    # Stable Diffusion of every kind has this many in its preset.
    steps = settings["steps"] or 50
    names = (*picture_names(len(first.target_prompts)), SHEET)
    plan = {
        "model": model,
        "seeds": [one.seed for one, _ in requests],
        "settings": settings,
        "steps_in_all": steps * len(requests),
        "pictures_at_once": len(names) - 1,
        "folders": [str(folder) for _, folder in requests],
        "pictures": [f"{name}.png" for name in names],
    }
    if as_json:
        typer.echo(json.dumps({"plan": plan}, indent=2))
    else:
        _print(plan)


def show_lines(plan: Mapping[str, Any]) -> None:
    """Print a plan, a line for each of its values, and that nothing was made."""
    for name, value in plan.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        line = f"{name.replace('_', ' ')}: {shown}"
        output().print(line, highlight=False, soft_wrap=True, markup=False)
    output().print("Nothing was made.", highlight=False)


def _print(plan: Mapping[str, Any]) -> None:
    console = output()
    lines = [f"model: {plan['model']}", f"seeds: {', '.join(map(str, plan['seeds']))}"]
    for name, value in plan["settings"].items():
        if value in ("", ()) or (name, value) == ("start_at", None):  # not asked for
            continue
        shown = "; ".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"{name.replace('_', ' ')}: {OF_MODEL if value is None else shown}")
    count = plan["pictures_at_once"]
    lines += [
        f"steps in all: {plan['steps_in_all']}, each on {count} pictures at once",
        f"folders: {', '.join(plan['folders'])}",
        f"pictures in each: {', '.join(plan['pictures'])}",
        "Nothing was made.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
