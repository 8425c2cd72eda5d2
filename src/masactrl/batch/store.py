"""The folder of a run: who writes in it, where pictures lie, and how they get there whole.

RUN/pictures/<name>-<key>/...png     of one row; appear at once, when all are written
RUN/ledger.jsonl                     a line for every row that is finished or has failed
RUN/ledger-3of8.jsonl                the same of a shard
RUN/log.txt                          a line a minute

A row's pictures are flushed to the disk before its line is written: a line means that they are
there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from masactrl.batch.hold import held
from masactrl.errors import ConfigError, OutputError

__all__ = ["PICTURES", "Store"]

PICTURES = "pictures"
_PART = ".part-"


class Store:
    """A run's folder.

    Args:
        folder: made if it is not there.
        shard: which of how many.
    """

    def __init__(self, folder: Path, shard: tuple[int, int]) -> None:
        self.folder = folder
        self._name = "all" if shard[1] == 1 else f"{shard[0]}of{shard[1]}"

    @property
    def ledger(self) -> Path:
        """The ledger of this run or shard."""
        return self.folder / (
            "ledger.jsonl" if self._name == "all" else f"ledger-{self._name}.jsonl"
        )

    def ledgers(self) -> list[Path]:
        """All ledgers of the folder."""
        return sorted(self.folder.glob("ledger*.jsonl"))

    @property
    def sources(self) -> Path:
        """Where inverted pictures are kept."""
        return self.folder / "sources"

    @contextlib.contextmanager
    def held(self, *, wait: bool) -> Iterator[None]:
        """Hold the folder, or this shard of it, inside the `with` block.

        Args:
            wait: whether to wait for another run that holds it.

        Raises:
            ConfigError: another run holds it; says which.
            OutputError: the folder cannot be used.
        """
        try:
            (self.folder / PICTURES).mkdir(parents=True, exist_ok=True)
            (self.folder / ".locks").mkdir(exist_ok=True)
            with self._alone(wait):
                self._sweep()
                yield
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be written to: {error.strerror or error}; choose another "
                "folder."
            ) from error

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Hold what all shards write together, waiting for them."""
        with FileLock(self.folder / ".locks" / "report.lock"):
            yield

    def write(self, name: str, key: str, pictures: Mapping[str, bytes]) -> str:
        """Write a row's pictures, all or none; return their folder, relative to the run's.

        Raises:
            OutputError: they cannot be written.
        """
        place = f"{PICTURES}/{_safe(name)}-{key[:16]}"
        beside = self.folder / PICTURES / f"{_PART}{self._name}-{key[:16]}"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            for each, content in pictures.items():
                with (beside / f"{each}.png").open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _flush(beside)
            target = self.folder / place
            if target.exists():  # of a run that was stopped before its line, or is made again
                shutil.rmtree(target)
            beside.rename(target)
            _flush(self.folder / PICTURES)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise OutputError(
                f"{self.folder} cannot be written: {error.strerror or error}. What is finished is "
                "kept; when there is room again, the same command goes on."
            ) from error
        return place

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether the pictures of a row of the ledger are there."""
        folder = self.folder / str(row.get("folder"))
        return all((folder / f"{one}.png").is_file() for one in row.get("pictures", ()))

    @contextlib.contextmanager
    def _alone(self, wait: bool) -> Iterator[None]:
        while True:
            with self._lock(self._name, wait):
                try:
                    for other in self._others():
                        with self._lock(other, wait=False, note=False):
                            pass
                except ConfigError:
                    if not wait:
                        raise
                else:
                    yield
                    return
            time.sleep(1)  # without the lock, for which the other may be waiting

    def _others(self) -> list[str]:
        """The whole run excludes shards, and shards the whole run."""
        locks = (self.folder / ".locks").glob("*.lock")
        names = {path.stem for path in locks} - {self._name, "report"}
        return sorted(names) if self._name == "all" else ["all"]

    def _lock(
        self, name: str, wait: bool, *, note: bool = True
    ) -> contextlib.AbstractContextManager[None]:
        path = self.folder / ".locks" / f"{name}.lock"
        return held(path, self.folder, rows=name, wait=wait, note=note)

    def _sweep(self) -> None:
        """Take away what this run or shard left half written when it was stopped."""
        for path in (self.folder / PICTURES).glob(f"{_PART}{self._name}-*"):
            shutil.rmtree(path, ignore_errors=True)
        if self._name == "all":
            for path in self.folder.glob(".*.part*"):
                path.unlink(missing_ok=True)


def _safe(name: str) -> str:
    """Return a name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)[:40].strip("_").lower() or "row"


def _flush(folder: Path) -> None:
    """Flush a folder's names to the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
