"""How a batch is run; what is made stands in the manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from masactrl.errors import ConfigError
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check

__all__ = ["BatchOptions", "EngineName", "Rerun"]

ENGINE = "Machines"
"""Heading of --help."""

EngineName = Literal["local", "ray"]
Rerun = Literal["changed", "failed", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How a batch is run.

    Raises:
        ConfigError: a value is out of its range, or two do not go together.
    """

    workers: Annotated[
        int,
        Setting(
            help="Processes, each with the model and a share of the cores, or a GPU of its own; 0 "
            "is this process alone, with Ray as many as there are GPUs or cores.",
            low=0,
            high=1024,
            panel=ENGINE,
        ),
    ] = 0
    shard: Annotated[
        str | None,
        Setting(
            help="Only every Nth row, such as 3/8: the third of eight commands that share a folder "
            "(SLURM arrays).",
            metavar="I/N",
            usual="all rows",
            panel=ENGINE,
        ),
    ] = None
    engine: Annotated[
        EngineName,
        Setting(help="This machine (local), or a cluster through Ray.", panel=ENGINE),
    ] = "local"
    address: Annotated[
        str | None,
        Setting(
            help="Of the Ray cluster, such as auto.",
            metavar="ADDRESS",
            usual="Ray on this machine",
            panel=ENGINE,
        ),
    ] = None
    batch: Annotated[
        int | None,
        Setting(
            help="Rows of one size and one kind at once, 1 to 64; fewer where memory ends.",
            low=1,
            high=64,
            usual="4 on a GPU, 1 elsewhere, where more is no quicker",
            panel=ENGINE,
        ),
    ] = None
    time_limit: Annotated[
        float | None,
        Setting(
            help="Seconds that one row may take, above 0; then it has failed.",
            above=0,
            usual="none",
            panel=ENGINE,
        ),
    ] = None
    keep_sources: Annotated[
        float,
        Setting(
            help="GiB of inverted pictures that are kept on the disk for later rows, 0 and more.",
            low=0,
            panel=ENGINE,
        ),
    ] = 2.0
    skip_bad: Annotated[bool, Setting(help="Go on without the rows that cannot be used.")] = False
    rerun: Annotated[
        Rerun,
        Setting(
            help="What is made again of an earlier run: rows that are new or were changed, also "
            "those that failed, or all."
        ),
    ] = "changed"
    limit: Annotated[
        int | None, Setting(help="Only the first so many rows, 1 and more.", low=1, usual="all")
    ] = None
    wait: Annotated[bool, Setting(help="Wait while another run works in the folder.")] = False

    def __post_init__(self) -> None:
        settle(self)
        check(self)
        self.part()
        if self.address is not None and self.engine != "ray":
            raise ConfigError("address belongs to the engine ray; give --engine ray, too.")

    def part(self) -> tuple[int, int]:
        """Return which shard of how many, the first being (1, 1).

        Raises:
            ConfigError: it is not written like 3/8.
        """
        if self.shard is None:
            return 1, 1
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(
                f"shard={self.shard!r} was given; write it like 3/8, the third of eight."
            )
        return int(match[1]), int(match[2])
