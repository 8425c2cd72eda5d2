"""What a batch will take, before it begins: rows, passes, time, room on the disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from masactrl.batch.engines import Here
from masactrl.batch.items import Items, items_of
from masactrl.batch.ledger import Ledger
from masactrl.batch.manifest import WrongRow, read_manifest
from masactrl.batch.options import BatchOptions
from masactrl.batch.progress import lasting
from masactrl.batch.run import KEYS, survey, todo
from masactrl.batch.store import Store
from masactrl.batch.work import Maker
from masactrl.errors import ConfigError, ControlWarning
from masactrl.pictures.images import png_bytes
from masactrl.runs.generate import GenerateRequest, generate
from masactrl.runs.model_spec import ModelSpec

if TYPE_CHECKING:
    from masactrl.models import LoadedModel

__all__ = ["BatchPlan", "plan_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What a batch will take.

    Attributes:
        rows: of the manifest that can be used.
        todo: how many of them are to be made by this run, or shard.
        wrong: rows that cannot be used.
        hints: about columns that look like settings.
        passes: rows through the U-Net.
        seconds: by one worker: as the rows that are made took, or as a picture of two steps did.
        bytes: of the pictures, measured likewise.
        model: its name.
        device: kind of device that it was measured on.
    """

    rows: int
    todo: int
    wrong: tuple[WrongRow, ...]
    hints: tuple[str, ...]
    passes: int
    seconds: float
    bytes: int
    model: str
    device: str

    def values(self) -> dict[str, Any]:
        """Return it as values that JSON knows."""
        wrong = [{"line": one.line, "reason": one.reason} for one in self.wrong]
        return {name: getattr(self, name) for name in self.__slots__} | {"wrong": wrong}

    def lines(self) -> tuple[str, ...]:
        """Return the plan as sentences, every wrong row by its line."""
        return (
            f"rows: {self.rows} that can be used, {self.todo} of them to make, "
            f"{len(self.wrong)} wrong",
            *(f"  {one}" for one in self.wrong),
            *self.hints,
            f"passes: {self.passes} rows through the U-Net of {self.model}",
            f"time: about {lasting(self.seconds)} by one worker on this {self.device}",
            f"room: about {self.bytes / 2**20:.1f} MiB for pictures",
            "Nothing was made.",
        )


def plan_batch(
    manifest: Path | str | Iterable[Mapping[str, Any] | ConfigError],
    out: Path,
    *,
    model: ModelSpec | None = None,
    options: BatchOptions | None = None,
    settings: Mapping[str, Any] | None = None,
) -> BatchPlan:
    """Return what `masactrl.batch.run.run_batch` with these arguments will take.

    The model is loaded, and measured with a picture of two steps.

    Raises:
        ConfigError: the manifest cannot be read.
        ModelNotFound: there is no such model.
    """
    options = options or BatchOptions()
    found = read_manifest(manifest, settings, limit=options.limit)
    store = Store(out, options.part())
    maker = Maker(model or ModelSpec(), sources=store.sources)
    with Here(maker) as engine:
        surveyed = survey(engine, found.rows)
    items = items_of(found.rows, surveyed)
    ledger = Ledger.read(store.ledgers(), KEYS)
    chosen = todo(items, ledger, store, options)
    seconds, dense = _measured(maker.model) if chosen else (0.0, 0.0)
    wrong = sorted((*found.wrong, *items.wrong), key=lambda one: one.number)
    load = sum(_load(items, key) for key in chosen)
    return BatchPlan(
        rows=len(items.keys),
        todo=len(chosen),
        wrong=tuple(wrong),
        hints=found.hints,
        passes=sum(items.passes[key] for key in chosen),
        seconds=round(load * (_earlier(items, ledger) or seconds), 3),
        bytes=round(dense * sum(items.pixels[key] for key in chosen)),
        model=surveyed.model,
        device=surveyed.device,
    )


def _load(items: Items, key: str) -> int:
    """Pixels that go through the U-Net for an item."""
    return items.passes[key] * items.areas[key]


def _earlier(items: Items, ledger: Ledger) -> float:
    """Seconds a pixel of the rows that are made; 0 where there are none."""
    rows = [row for row in ledger if "error" not in row and items.passes.get(row["key"])]
    return fmean(row["seconds"] / _load(items, row["key"]) for row in rows) if rows else 0.0


def _measured(model: LoadedModel) -> tuple[float, float]:
    """Seconds a pixel through the U-Net and bytes a pixel on the disk, at the model's own size."""
    request = GenerateRequest(
        source_prompt="a picture", target_prompts=("another picture",), steps=2, start_step=1
    )
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ControlWarning)  # about words that nobody asked for
        result = generate(model, request)
    seconds = time.perf_counter() - started
    pixels = result.source.width * result.source.height
    passes = 2 * 2 * 3  # two steps, both guidance branches, three pictures
    return seconds / passes / pixels, len(png_bytes(result.source)) / pixels
