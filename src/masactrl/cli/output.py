"""What a command writes, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from masactrl.settings.declare import Setting

__all__ = ["OUTPUT", "Output"]

OUTPUT = "Output"
"""Heading of --help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The options that all commands with pictures share."""

    out: Annotated[
        Path,
        Setting(
            help="Where the pictures go; made if it does not exist.",
            letter="o",
            metavar="FOLDER",
            panel=OUTPUT,
        ),
    ] = Path("out")
    as_json: Annotated[
        bool,
        Setting(help="Print the result as JSON on standard output.", flag="json", panel=OUTPUT),
    ] = False
    no_metadata: Annotated[
        bool,
        Setting(help="Write pixels only: no recipe in or beside the pictures.", panel=OUTPUT),
    ] = False
    overwrite: Annotated[
        bool, Setting(help="Replace pictures that are there already.", panel=OUTPUT)
    ] = False

    @property
    def metadata(self) -> bool:
        """Whether recipes are written."""
        return not self.no_metadata
