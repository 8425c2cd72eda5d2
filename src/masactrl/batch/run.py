"""The door to many edits: a manifest made, every row once, whatever is stopped in between.

outcome = run_batch("edits.jsonl", Path("run"), options=BatchOptions(workers=2))
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masactrl.batch.engines import Crew, Engine, Here, Led, never
from masactrl.batch.items import Items, asked_key, items_of, jobs_of
from masactrl.batch.ledger import Ledger
from masactrl.batch.manifest import WrongRow, WrongRows, read_manifest
from masactrl.batch.options import BatchOptions
from masactrl.batch.processes import Processes
from masactrl.batch.progress import OnEvent, Progress
from masactrl.batch.report import write_report
from masactrl.batch.results import RowResult, results_of, write_results
from masactrl.batch.rows import Row
from masactrl.batch.store import Store
from masactrl.batch.work import Made, Maker, Survey, Surveyed
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError
from masactrl.runs.model_spec import ModelSpec

__all__ = [
    "KEYS",
    "BatchOutcome",
    "OnEvent",
    "engine_of",
    "refuse_wrong",
    "run_batch",
    "survey",
    "todo",
]

KEYS = ("key",)
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """What became of a batch.

    Attributes:
        rows: every row of the manifest, or of the shard, in order; see `RowResult`.
        made: how many rows this run made, well or not.
        stopped: whether it was asked to stop before the end.
        paths: of results and report.
        seconds: that it took.
    """

    rows: tuple[RowResult, ...]
    made: int
    stopped: bool
    paths: tuple[Path, ...]
    seconds: float

    @property
    def done(self) -> int:
        """Rows that are finished."""
        return sum(one.status == "done" for one in self.rows)

    @property
    def failed(self) -> tuple[RowResult, ...]:
        """Rows that failed or cannot be used."""
        return tuple(one for one in self.rows if one.status in ("failed", "wrong"))


def run_batch(
    manifest: Path | str | Iterable[Mapping[str, Any] | ConfigError],
    out: Path,
    *,
    model: ModelSpec | None = None,
    options: BatchOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    metadata: bool = True,
    on_event: OnEvent | None = None,
    stopping: Callable[[], bool] = never,
) -> BatchOutcome:
    """Make all rows of a manifest that are not made yet.

    A column that looks like a setting and is none is carried along with a `ControlWarning`.

    Args:
        manifest: see `masactrl.batch.manifest.read_manifest`.
        out: folder of the run; the same command goes on in it.
        model: what makes the pictures; None is the embedded model.
        options: how it is run.
        settings: of all rows, by name; what a row says itself goes before them.
        metadata: whether pictures carry their recipe.
        on_event: see `OnEvent`.
        stopping: asked again and again; True finishes the rows at hand and begins no others.

    Raises:
        WrongRows: rows that cannot be used, all of them, unless ``options.skip_bad``.
        ConfigError: the manifest cannot be read, or another run holds the folder.
        ModelNotFound: there is no such model, or it cannot be read.
        OutputError: the folder cannot be written to; what is finished is kept.
        MissingExtra: Parquet without pyarrow, or Ray without ray.
    """
    started = time.monotonic()
    options = options or BatchOptions()
    found = read_manifest(manifest, settings, limit=options.limit)
    refuse_wrong(found.wrong, found.name, options)
    store = Store(out, options.part())
    maker = Maker(
        model or ModelSpec(),
        sources=store.sources.absolute(),
        limit=int(options.keep_sources * _GIB),
        metadata=metadata,
    )
    with store.held(wait=options.wait), engine_of(options, maker, stopping) as engine:
        ledger = Ledger(store.ledger, KEYS, beside=store.ledgers())
        surveyed = survey(engine, found.rows)
        items = items_of(found.rows, surveyed)
        refuse_wrong(items.wrong, found.name, options)
        chosen = todo(items, ledger, store, options)
        by_key = items.by_key
        for hint in found.hints:
            warnings.warn(hint, ControlWarning, stacklevel=2)
        with Progress(len(chosen), store.folder / "log.txt", on_event) as progress:
            for made in _made(engine, items, chosen, options, surveyed):
                item = by_key[made.key]
                row = {
                    "key": made.key,
                    "asked": asked_key(item.row, surveyed),
                    "seconds": made.seconds,
                    **({"warnings": list(made.warnings)} if made.warnings else {}),
                }
                if made.error:
                    row["error"] = made.error
                else:
                    row["folder"] = store.write(item.name, made.key, made.pictures)
                    row |= {"pictures": [*made.pictures], "figures": dict(made.figures)}
                ledger.add(row)
                progress.tick(item.row, row)
        stopped = stopping() and progress.left > 0
        with store.reporting():
            # Anew: other shards may have gone on.
            ledger = Ledger(store.ledger, KEYS, beside=store.ledgers())
            results = results_of(found, items, surveyed, ledger, store)
            title = f"{Path(found.name).name}: {surveyed.model} on {surveyed.device}"
            report = write_report(store.folder, results, title=title)
            paths = (*write_results(store.folder, results), report)
        outcome = BatchOutcome(
            rows=tuple(one for one in results if _mine(one.number, options)),
            made=progress.made,
            stopped=stopped,
            paths=paths,
            seconds=round(time.monotonic() - started, 1),
        )
        progress.end(outcome.done, len(outcome.failed), stopped=stopped)
    return outcome


def engine_of(options: BatchOptions, maker: Any, stopping: Callable[[], bool] = never) -> Engine:
    """Return what the options ask for; `maker` is what it does.

    Raises:
        MissingExtra: Ray is not installed.
    """
    if options.engine == "ray":
        from masactrl.batch.ray_actors import RayActors

        crew: Crew = RayActors(maker, options.workers, options.address)
        return Led(crew, time_limit=options.time_limit, stopping=stopping)
    # What hangs is ended from outside.
    workers = options.workers or (1 if options.time_limit is not None else 0)
    if not workers:
        return Here(maker, stopping=stopping)
    return Led(Processes(maker, workers), time_limit=options.time_limit, stopping=stopping)


def survey(engine: Engine, rows: Sequence[Row]) -> Surveyed:
    """Let a worker look over the rows.

    Raises:
        MasaCtrlError: it was asked to stop, or died over it.
    """
    for one in engine.run([Survey(rows=tuple(rows))]):
        if isinstance(one.answer, Surveyed):
            return one.answer
        raise MasaCtrlError(f"The rows could not be looked over: {one.lost}")
    raise MasaCtrlError("It was stopped before anything was begun.")


def todo(items: Items, ledger: Ledger, store: Store, options: BatchOptions) -> frozenset[str]:
    """Return the keys of what this run is to make."""
    chosen = set()
    for item in items.items:
        row = ledger.get(item.key)
        kept = row is not None and (
            options.rerun == "changed" if "error" in row else store.has(row)
        )
        if _mine(item.row.number, options) and (options.rerun == "all" or not kept):
            chosen.add(item.key)
    return frozenset(chosen)


def refuse_wrong(wrong: Sequence[WrongRow], name: str, options: BatchOptions) -> None:
    """Refuse rows that cannot be used, unless it was asked to go on; `WrongRows`."""
    own = [one for one in wrong if _mine(one.number, options)]
    if own and not options.skip_bad:
        raise WrongRows(name, own)


def _mine(number: int, options: BatchOptions) -> bool:
    """Whether a row is of this shard; the list is split before what is finished is left out."""
    shard, count = options.part()
    return (number - 1) % count == shard - 1


def _made(
    engine: Engine,
    items: Items,
    chosen: frozenset[str],
    options: BatchOptions,
    surveyed: Surveyed,
) -> Iterator[Made]:
    own = [item for item in items.items if _mine(item.row.number, options)]
    size = options.batch or (4 if surveyed.device == "cuda" else 1)
    for one in engine.run([*jobs_of(own, chosen, size)]):
        if one.lost:
            answers = [Made(key=item.key, error=one.lost) for item in one.job.items]
        else:
            answers = [*one.answer]
        yield from (made for made in answers if made.key in chosen)
