"""JSON lines of finished items: a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from masactrl.errors import ConfigError, OutputError
from masactrl.pictures.files import write_text

__all__ = ["Ledger"]


class Ledger:
    """Rows of a run in `items.jsonl`, and what was run in `settings.json` beside it.

    A row that was half written when the machine stopped is dropped. Rows with an "error" count as
    not done, so that a later run tries them again; the last row of a key counts.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        self.path = folder / "items.jsonl"
        self._keys = keys
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._check_settings(folder / "settings.json", settings)
            self._read()
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be used: {error.strerror or error}; choose another folder."
            ) from error

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
        """Write one row, at once and whole."""
        self._rows[self._key(row)] = dict(row)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}."
            ) from error

    def _key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._keys)

    def _check_settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(settings))
        if not path.exists():
            path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
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

    def _read(self) -> None:
        if not self.path.exists():
            return
        whole = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                self._rows[self._key(row)] = row
                whole.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a stop
        # Written anew without what was cut off, or the next row would be glued to it.
        write_text(self.path, "".join(f"{line}\n" for line in whole))
