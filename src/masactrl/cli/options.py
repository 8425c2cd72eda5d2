"""Options of commands that belong to no request."""

from __future__ import annotations

from typing import Annotated

import typer

from masactrl.cli.output import OUTPUT
from masactrl.settings.declare import OF_MODEL
from masactrl.settings.shared import LARGEST_SIDE

SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help=f"Width x height in pixels, multiples of 8 up to {LARGEST_SIDE}.",
        show_default=OF_MODEL,
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        min=1,
        help="Processes, each with a share of the cores and a copy of the model; on the CPU, one "
        "for each core or two is faster.",
    ),
]
PlanOption = Annotated[
    bool,
    typer.Option(
        "--plan",
        "--dry-run",
        help="Say what would be made, where and in how many steps; stop.",
        rich_help_panel=OUTPUT,
    ),
]
