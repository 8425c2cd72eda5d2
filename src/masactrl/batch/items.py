"""From rows to jobs: keys by which a row is known again, and what is made at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from masactrl._version import __version__
from masactrl.batch.manifest import WrongRow
from masactrl.batch.rows import Row
from masactrl.batch.work import Item, Job, Surveyed, digest
from masactrl.models.origin import file_hash

__all__ = ["Items", "asked_key", "items_of", "jobs_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """What is to be made.

    Attributes:
        items: one a key, in order.
        keys: number of a row -> its key; rows that ask for the same have the same.
        passes: of every item's rows through the U-Net, by key.
        areas: pixels of one of its pictures, by key.
        pixels: of all its pictures, by key.
        wrong: rows that the model cannot make.
    """

    items: tuple[Item, ...]
    keys: Mapping[int, str]
    passes: Mapping[str, int]
    areas: Mapping[str, int]
    pixels: Mapping[str, int]
    wrong: tuple[WrongRow, ...] = field(default=())

    @property
    def by_key(self) -> Mapping[str, Item]:
        """Every item by its key."""
        return {item.key: item for item in self.items}


def items_of(rows: Sequence[Row], surveyed: Surveyed) -> Items:
    """Return the items of rows that a worker looked over."""
    hashes: dict[Path, str] = {}
    found: dict[str, Item] = {}
    keys: dict[int, str] = {}
    wrong: list[WrongRow] = []
    passes: dict[str, int] = {}
    areas: dict[str, int] = {}
    pixels: dict[str, int] = {}
    for row, entry in zip(rows, surveyed.entries, strict=True):
        reason = entry.problem
        for path in row.files:
            if path not in hashes:
                try:
                    hashes[path] = file_hash(path)
                except OSError as error:
                    reason = f"{path} cannot be read: {error.strerror or error}."
        if reason:
            wrong.append(WrongRow(number=row.number, line=row.line, reason=reason, row=row))
            continue
        own = tuple(hashes[path] for path in row.files)
        made_by = [surveyed.weights, __version__]
        key = digest([row.kind, entry.settings, own, *made_by])
        source = digest([entry.source, own[0], *made_by]) if entry.source else ""
        alike = digest([entry.alike, source, *made_by]) if entry.alike else ""
        keys[row.number] = key
        passes[key], areas[key], pixels[key] = entry.passes, entry.area, entry.pixels
        found.setdefault(key, Item(key=key, row=row, hashes=own, source=source, alike=alike))
    counts = Counter(item.source for item in found.values() if item.source)
    return Items(
        items=tuple(_shared(item, counts) for item in found.values()),
        keys=keys,
        passes=passes,
        areas=areas,
        pixels=pixels,
        wrong=tuple(wrong),
    )


def jobs_of(items: Sequence[Item], todo: Collection[str], size: int) -> Iterator[Job]:
    """Yield the jobs that have something to do.

    Which rows are made together does not depend on what is finished: a batch that was stopped is
    made again as it was, and its pictures are the same to the bit.
    """
    waiting: dict[str, list[Item]] = {}
    jobs: dict[str, list[Item]] = {}  # first key -> rows, in the order of the first
    for item in items:
        group = waiting.get(item.alike) if item.alike else None
        if group is None or len(group) == size:
            group = jobs[item.key] = []
            if item.alike:
                waiting[item.alike] = group
        group.append(item)
    for group in jobs.values():
        if any(item.key in todo for item in group):
            yield Job(items=tuple(group))


def asked_key(row: Row, surveyed: Surveyed) -> str:
    """Return what a row is known by when its files are gone: by their names, not their bytes."""
    return digest([row.kind, dict(row.settings), surveyed.weights, __version__])


def _shared(item: Item, counts: Mapping[str, int]) -> Item:
    return replace(item, shared=counts.get(item.source, 0) > 1)
