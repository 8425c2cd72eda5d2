"""JSON lines of finished items: a run that was stopped goes on where it was.

A row is written at once, whole and flushed to the disk, by one writer. A line that was cut off when
the machine stopped is taken away when the file is opened again; what is before it counts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from masactrl.batch.hold import held
from masactrl.errors import ConfigError, OutputError
from masactrl.pictures.files import write_text

__all__ = ["ITEMS", "Ledger"]

ITEMS = "items.jsonl"
"""The usual name of the file."""


class Ledger:
    """Rows of a run by their key; the last row of a key counts.

    Rows with an "error" count as not done.

    Args:
        path: of the file; its folder is made.
        keys: columns that together are the key of a row.
        settings: what all rows have in common; kept in `settings.json` beside the file, and a
            folder that has others is refused. None keeps nothing.
        beside: files of other writers, such as other shards, read and never written.

    Raises:
        ConfigError: the folder holds a run with other settings.
        OutputError: it cannot be used.
    """

    def __init__(
        self,
        path: Path,
        keys: tuple[str, ...],
        *,
        settings: Mapping[str, Any] | None = None,
        beside: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self._keys = keys
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        try:
            if path.name:
                path.parent.mkdir(parents=True, exist_ok=True)
            if settings is not None:
                _check_settings(path.parent / "settings.json", settings)
            for other in beside:
                if other != path:
                    self._read(other.read_bytes())
            if path.is_file():
                self._mend(path.read_bytes())
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{path.parent} cannot be used: {error.strerror or error}; choose another folder."
            ) from error

    @classmethod
    def read(cls, paths: Sequence[Path], keys: tuple[str, ...]) -> Ledger:
        """Return what files hold, without a file of its own to write to."""
        return cls(Path(), keys, beside=paths)

    @classmethod
    @contextlib.contextmanager
    def alone(
        cls, path: Path, keys: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Iterator[Ledger]:
        """Yield the ledger of a folder that nobody else writes to inside the `with` block.

        Raises:
            ConfigError: another run holds the folder, or it holds a run with other settings.
            OutputError: it cannot be used.
        """
        folder = path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = contextlib.ExitStack()
            lock.enter_context(held(folder / ".lock", folder))
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be used: {error.strerror or error}; choose another folder."
            ) from error
        with lock:
            yield cls(path, keys, settings=settings)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows.values())

    def done(self, *key: Any) -> bool:
        """Whether the item was finished without an error."""
        row = self._rows.get(key)
        return row is not None and "error" not in row

    def get(self, *key: Any) -> dict[str, Any] | None:
        """The row of an item, or None."""
        return self._rows.get(key)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row, at once and whole.

        Raises:
            OutputError: it cannot be written; the file is as it was.
        """
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            with self.path.open("ab") as file:
                before = file.tell()
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), before)
                    raise
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}."
            ) from error
        self._rows[self._key(row)] = dict(row)

    def _key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._keys)

    def _read(self, content: bytes) -> list[bytes]:
        """Take in the rows of a file, and return its lines that are whole."""
        whole = []
        for line in content.split(b"\n"):
            try:
                row = json.loads(line)
                self._rows[self._key(row)] = row
                whole.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a stop
        return whole

    def _mend(self, content: bytes) -> None:
        """Write the file anew where something was cut off, or the next row would be glued to it."""
        mended = b"".join(line + b"\n" for line in self._read(content))
        if mended != content:
            write_text(self.path, mended.decode())


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings))
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=2) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}. Choose another folder.") from error
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{path.parent} holds a run with another {name} ({found.get(name)!r}, now "
            f"{wanted[name]!r}), and figures of both would be mixed. Choose another folder."
        )
