"""What a batch leaves for other programs: a table of all rows, and a data set of pictures.

RUN/results.jsonl, .parquet     a line for every row of the manifest, in its order
RUN/metadata.jsonl              a line for every edited picture: load_dataset("imagefolder", RUN)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masactrl.batch.figures import FIGURES
from masactrl.batch.items import asked_key
from masactrl.batch.rows import PICTURE, Row
from masactrl.pictures.files import write_text, written_whole

if TYPE_CHECKING:
    from masactrl.batch.items import Items
    from masactrl.batch.ledger import Ledger
    from masactrl.batch.manifest import Manifest
    from masactrl.batch.store import Store
    from masactrl.batch.work import Surveyed

__all__ = ["RowResult", "Status", "results_of", "write_results"]

Status = Literal["done", "failed", "wrong", "open"]
"""Finished; tried without success; cannot be used; not made yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A row and what became of it.

    Attributes:
        number: place in the manifest, from 1.
        line: of the file.
        status: see `Status`.
        row: as far as it could be read.
        error: why there are no pictures.
        folder: of the pictures, relative to the run's.
        pictures: their names.
        figures: see `masactrl.batch.figures`.
        seconds: that it took.
        warnings: what was probably not meant.
    """

    number: int
    line: int
    status: Status
    row: Row | None = None
    error: str = ""
    folder: str = ""
    pictures: tuple[str, ...] = ()
    figures: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of the targets."""
        return () if self.row is None else tuple(self.row.settings.get("to", ()))

    @property
    def source_prompt(self) -> str:
        """Of the source; may be empty."""
        settings = {} if self.row is None else self.row.settings
        return str(settings.get("source", settings.get("from", "")))

    def values(self) -> dict[str, Any]:
        """Return it as values that JSON knows; carried columns of a name of ours are renamed."""
        row = self.row
        own: dict[str, Any] = {
            "row": self.number,
            "line": self.line,
            "status": self.status,
            "error": self.error or None,
            "source": (row.shown or None) if row else None,
            "source_prompt": self.source_prompt or None,
            "target_prompts": list(self.prompts),
            "pictures": [f"{self.folder}/{one}.png" for one in self.pictures],
            "seconds": self.seconds,
            **{name: self.figures.get(name) for name in FIGURES},
            "warnings": list(self.warnings),
            "settings": _settings(row),
        }
        carried = {} if row is None else row.carried
        return own | {
            (f"manifest_{name}" if name in own else name): one for name, one in carried.items()
        }

    def images(self) -> list[dict[str, Any]]:
        """Return a line of a data set for every picture of a target."""
        values = self.values()
        shared = {
            name: value
            for name, value in values.items()
            if name not in ("pictures", "target_prompts", "settings", "warnings", "error", "status")
        }
        return [
            {
                "file_name": f"{self.folder}/target{number}-controlled.png",
                "target_prompt": prompt,
                **{name: value for name, value in shared.items() if name != "file_name"},
            }
            for number, prompt in enumerate(self.prompts, start=1)
            if f"target{number}-controlled" in self.pictures
        ]


def results_of(
    manifest: Manifest, items: Items, surveyed: Surveyed, ledger: Ledger, store: Store
) -> tuple[RowResult, ...]:
    """Return every row of a manifest with what became of it, in order."""
    by_asked = {row.get("asked"): row for row in ledger}
    found: dict[int, RowResult] = {}
    for one in (*manifest.wrong, *items.wrong):
        # A row that is finished stays so when its picture is gone.
        known = None if one.row is None else by_asked.get(asked_key(one.row, surveyed))
        if known is not None and "error" not in known and store.has(known):
            found[one.number] = _result(one.number, one.line, one.row, known)
            continue
        found[one.number] = RowResult(
            number=one.number, line=one.line, status="wrong", row=one.row, error=one.reason
        )
    for row in manifest.rows:
        if row.number not in found:
            known = ledger.get(items.keys[row.number])
            found[row.number] = _result(row.number, row.line, row, known)
    return tuple(found[number] for number in sorted(found))


def write_results(folder: Path, results: Sequence[RowResult]) -> tuple[Path, ...]:
    """Write the tables of a run, each whole or not at all; return their paths.

    Parquet is left out where pyarrow is not installed.

    Raises:
        OutputError: they cannot be written.
    """
    rows = [one.values() for one in results]
    paths = [write_text(folder / "results.jsonl", _lines(rows))]
    images = [line for one in results if one.status == "done" for line in one.images()]
    if images:
        paths.append(write_text(folder / "metadata.jsonl", _lines(_one_each(images))))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return tuple(paths)
    path = folder / "results.parquet"
    with written_whole(path) as beside:
        parquet.write_table(pyarrow.Table.from_pylist(_plain(rows)), beside)
    return (*paths, path)


def _result(number: int, line: int, row: Row | None, known: Mapping[str, Any] | None) -> RowResult:
    if known is None:
        return RowResult(number=number, line=line, status="open", row=row)
    return RowResult(
        number=number,
        line=line,
        status="failed" if "error" in known else "done",
        row=row,
        error=known.get("error", ""),
        folder=known.get("folder", ""),
        pictures=tuple(known.get("pictures", ())),
        figures=known.get("figures", {}),
        seconds=known.get("seconds"),
        warnings=tuple(known.get("warnings", ())),
    )


def _settings(row: Row | None) -> dict[str, Any]:
    """The other settings of a row, as JSON has them."""
    if row is None:
        return {}
    told = {n: v for n, v in row.settings.items() if n not in (PICTURE, "source", "from", "to")}
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return plain


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _one_each(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first of the lines with one picture: two rows may have asked for the same."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        found.setdefault(line["file_name"], line)
    names = dict.fromkeys(name for line in lines for name in line)
    return [{name: line.get(name) for name in names} for line in found.values()]


def _plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose columns are of one kind each; those that are not become text."""
    names = dict.fromkeys(name for row in rows for name in row)
    texts = {name for name in names if not _simple([row.get(name) for row in rows])}
    return [
        {
            name: json.dumps(row[name], default=str)
            if name in texts and row.get(name) is not None
            else row.get(name)
            for name in names
        }
        for row in rows
    ]


def _simple(values: Sequence[Any]) -> bool:
    """Whether a column is of texts, of numbers, of truth values or of lists of texts alone."""
    given = [value for value in values if value is not None]
    if all(isinstance(value, list) for value in given):
        return all(isinstance(one, str) for value in given for one in value)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return all(abs(value) < 2**53 for value in given)
    return len({type(value) for value in given}) == 1 and isinstance(given[0], str | bool)
