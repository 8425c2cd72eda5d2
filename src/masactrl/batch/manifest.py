"""A manifest read: JSON lines, CSV or Parquet, one edit a row; every wrong row with its line.

    {"file_name": "corgi.jpg", "target_prompt": "a running corgi", "steps": 25, "album": "dogs"}

Paths are relative to the manifest. A column that is no setting is kept and goes into the results.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from PIL import Image

from masactrl.batch.rows import Kind, Row, names_of, row_of
from masactrl.errors import ConfigError, MissingExtra
from masactrl.pictures.files import read_text
from masactrl.pictures.images import DAMAGED
from masactrl.runs.model_spec import ModelSpec
from masactrl.settings.declare import settings_of

__all__ = ["Manifest", "WrongRow", "WrongRows", "read_manifest"]

_MOST = 256 * 2**20  # bytes of a manifest; a million rows have fewer
_SHOWN = 20
_OF_ALL = frozenset(one.flag or one.name for one in settings_of(ModelSpec).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongRow:
    """A row that cannot be used: its place, its line, why, and the row as far as it was read."""

    number: int
    line: int
    reason: str
    row: Row | None = None

    def __str__(self) -> str:
        """Name the line and the reason."""
        return f"line {self.line}: {self.reason}"


class WrongRows(ConfigError):  # noqa: N818
    """Rows of a manifest cannot be used; `rows` has all of them."""

    def __init__(self, name: str, rows: Sequence[WrongRow]) -> None:
        self.rows = tuple(rows)
        shown = "\n  ".join(map(str, rows[:_SHOWN]))
        more = f"\n  and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
        super().__init__(
            f"{count} of {name} cannot be used; mend them, or go on without them (--skip-bad, "
            f"skip_bad=True):\n  {shown}{more}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Rows that can be used, and the others.

    Attributes:
        name: of the file, for sentences.
        rows: in the order of the file.
        wrong: likewise.
        hints: sentences about columns that look like settings and are none.
    """

    name: str
    rows: tuple[Row, ...]
    wrong: tuple[WrongRow, ...]
    hints: tuple[str, ...] = ()


def read_manifest(
    manifest: Path | str | Iterable[Mapping[str, Any] | ConfigError],
    usual: Mapping[str, Any] | None = None,
    *,
    limit: int | None = None,
) -> Manifest:
    """Read a manifest and check every row, as far as that goes without a model.

    Args:
        manifest: a .jsonl, .csv or .parquet file, or the rows themselves, whose paths are relative
            to where the program runs; an error in the place of a row is why it cannot be used.
        usual: settings of all rows; what a row says itself goes before them.
        limit: only the first so many rows.

    Raises:
        ConfigError: the file cannot be read, has no row, or ``usual`` has what is no setting, or
            none of any row here.
        MissingExtra: Parquet, without pyarrow.
    """
    usual = dict(usual or {})
    _check_usual(usual)
    if isinstance(manifest, (str, Path)):
        path = Path(manifest)
        name, folder, found = str(path), path.parent, _lines(path)
    else:
        name, folder = "the rows", Path()
        found = enumerate(manifest, start=1)
    rows: list[Row] = []
    wrong: list[WrongRow] = []
    checked: dict[Path, str] = {}
    for number, (line, values) in enumerate(found, start=1):
        if limit is not None and number > limit:
            break
        row = None
        try:
            if isinstance(values, ConfigError):
                raise values
            row = row_of(values, usual, number=number, line=line, folder=folder)
            _check_picture(row, checked)
            row.asked()
            rows.append(row)
        except ConfigError as error:
            wrong.append(WrongRow(number=number, line=line, reason=str(error), row=row))
    if not rows and not wrong:
        raise ConfigError(f"{name} has no row; give one edit a row.")
    _check_used(usual, rows)
    return Manifest(name=name, rows=tuple(rows), wrong=tuple(wrong), hints=_hints(rows))


def _check_usual(usual: Mapping[str, Any]) -> None:
    known = {**names_of("generate"), **names_of("edit")}
    for name in usual:
        if name.replace("-", "_") not in known:
            near = get_close_matches(name.replace("-", "_"), known, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            accepted = ", ".join(sorted(set(known.values())))
            raise ConfigError(f"{name!r} is no setting; {meant}accepted are {accepted}.")


def _check_used(usual: Mapping[str, Any], rows: Sequence[Row]) -> None:
    kinds = {row.kind for row in rows}
    for name in usual:
        if kinds and not any(name.replace("-", "_") in names_of(kind) for kind in kinds):
            what = "edits" if "generate" in kinds else "pictures from prompts"
            raise ConfigError(f"{name} is a setting of {what}, and there are none; leave it out.")


def _hints(rows: Sequence[Row]) -> tuple[str, ...]:
    columns = dict.fromkeys((column, row.kind) for row in rows for column in row.carried)
    found = {column: _hint(column.replace("-", "_"), kind) for column, kind in columns}
    return tuple(
        f"The column {column!r} is {hint}" for column, hint in found.items() if hint is not None
    )


def _hint(column: str, kind: Kind) -> str | None:
    """What a column looks like that is carried along."""
    other: Kind = "edit" if kind == "generate" else "generate"
    if column in names_of(other):
        what = {"edit": "edits", "generate": "pictures from prompts"}
        return f"a setting of {what[other]}, not of {what[kind]}, and is only carried along."
    if column in _OF_ALL:
        return "no setting of a row and is only carried along; a command has one model for all."
    near = get_close_matches(column, names_of(kind), n=1, cutoff=0.85)
    return f"no setting and is carried along; did you mean {near[0]}?" if near else None


def _check_picture(row: Row, checked: dict[Path, str]) -> None:
    """Refuse a picture that is none as far as its head tells; `ConfigError`."""
    for path in row.files[:1] if row.kind == "edit" else ():
        if path not in checked:
            checked[path] = _problem(path)
        if checked[path]:
            raise ConfigError(checked[path])


def _problem(path: Path) -> str:
    try:
        with Image.open(path) as image:
            image.verify()
    except FileNotFoundError:
        return f"There is no file {path}."
    except DAMAGED as error:
        return f"{path} cannot be read as a picture: {str(error) or type(error).__name__}."
    return ""


_Found = Iterator[tuple[int, Any]]


def _lines(path: Path) -> _Found:
    """Line of every row, and its values, or the error that it is."""
    ending = path.suffix.lower()
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv}
    try:
        if ending != ".parquet" and ending not in readers:
            raise ConfigError(f"{path} is no manifest; give a .jsonl, .csv or .parquet file.")
        if path.stat().st_size > _MOST:
            raise ConfigError(f"{path} is larger than {_MOST >> 20} MiB; give several manifests.")
        return _parquet(path) if ending == ".parquet" else readers[ending](read_text(path), ending)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8: {error}.") from error


def _jsonl(text: str, _ending: str) -> _Found:
    for line, words in enumerate(text.split("\n"), start=1):
        if words.strip():
            yield line, _object(words)


def _object(words: str) -> Any:
    try:
        values = json.loads(words, object_pairs_hook=_once)
    except ConfigError as error:
        return error
    except (ValueError, RecursionError) as error:
        return ConfigError(f"The line is no JSON: {error}.")
    return values if isinstance(values, dict) else ConfigError("The line is no JSON object.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name!a} is given twice; give it once.")
    return dict(pairs)


def _csv(text: str, ending: str) -> _Found:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if ending == ".tsv" else ",")
    try:
        columns = next(reader, [])
    except csv.Error as error:
        raise ConfigError(f"The first line holds no names of columns: {error}.") from error
    if len(set(columns)) < len(columns) or not all(columns):
        raise ConfigError("The first line names the columns, each once and none empty.")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, ConfigError(f"The line cannot be read: {error}.")
            continue
        if not cells:
            continue
        if len(cells) > len(columns):
            yield line, ConfigError(f"{len(cells)} cells for {len(columns)} columns.")
        else:
            yield line, dict(zip(columns, cells, strict=False))


def _parquet(path: Path) -> _Found:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("a Parquet manifest", "batch") from error
    try:
        table = parquet.read_table(path)
        return iter([(n, row) for n, row in enumerate(table.to_pylist(), start=1)])
    except (arrow.ArrowException, OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path} is no Parquet file: {reason}.") from error
