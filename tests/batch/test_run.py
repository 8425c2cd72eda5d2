"""A batch: every row once, whatever is stopped, changed, gone or wrong in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masactrl.batch import progress
from masactrl.batch import run as batch_run
from masactrl.batch.engines import Finished, Here
from masactrl.batch.ledger import Ledger
from masactrl.batch.manifest import WrongRows
from masactrl.batch.options import BatchOptions
from masactrl.batch.plan import plan_batch
from masactrl.batch.queue import JobQueue
from masactrl.batch.run import BatchOutcome, run_batch
from masactrl.batch.store import Store
from masactrl.batch.work import Maker
from masactrl.errors import ConfigError, OutputError
from masactrl.runs.model_spec import ModelSpec

Run = Callable[..., BatchOutcome]


@pytest.fixture
def spec(model_folder: Path) -> ModelSpec:
    return ModelSpec(model=str(model_folder), device="cpu")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    usual = {"steps": 2, "start_step": 1, "fit": "keep"}
    edits = [("a", "a dog"), ("a", "a fox"), ("b", "a dog")]
    found = [
        {"file_name": str(tmp_path / f"{name}.png"), "target_prompt": prompt, **usual, "album": n}
        for n, (name, prompt) in enumerate(edits)
    ]
    small = {"steps": 2, "start_step": 1, "size": "16x16"}
    found += [
        {"source_prompt": "a cat", "target_prompt": "a dog", "seed": seed, **small}
        for seed in (1, 2)
    ]
    return found


@pytest.fixture
def run(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in one folder; all have the one model."""
    made = spec.load()
    monkeypatch.setattr(Maker, "model", property(lambda _: made))

    def go(rows: Any, out: str = "run", **options: Any) -> BatchOutcome:
        own = {name: options.pop(name) for name in ("on_event", "stopping") if name in options}
        return run_batch(rows, tmp_path / out, model=spec, options=BatchOptions(**options), **own)

    return go


def pixels(folder: Path, outcome: BatchOutcome) -> dict[str, bytes]:
    return {
        path: (folder / path).read_bytes()
        for one in outcome.rows
        for path in one.values()["pictures"]
    }


def test_rows_are_made_once_and_gone_on_with(
    run: Run, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    events: list[Mapping[str, Any]] = []
    stops = iter([False, False, False, True, True, True])  # survey, two rows, the third
    first = run(rows, on_event=events.append, stopping=lambda: next(stops))
    assert (first.made, first.done, first.stopped) == (2, 2, True)
    assert [event["event"] for event in events] == ["begin", "row", "row", "end"]
    second = run(rows)
    assert (second.made, second.done, second.stopped) == (3, 5, False)
    assert run(rows).made == 0
    whole = run(rows, "whole")
    assert pixels(tmp_path / "whole", whole) == pixels(tmp_path / "run", second)
    told = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert [one["album"] for one in told[:3]] == [0, 1, 2]
    assert all(one["status"] == "done" and one["kept_psnr"] > 0 for one in told)


def test_what_was_changed_is_made_again_and_what_is_gone_stays(
    run: Run, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(rows)
    rows[1]["target_prompt"] = "a cat"
    assert run(rows).made == 1
    Image.new("RGB", (16, 16), "red").save(tmp_path / "b.png")
    assert run(rows).made == 1
    (tmp_path / "b.png").unlink()
    with pytest.raises(WrongRows, match="line 3: There is no file"):
        run(rows)
    outcome = run(rows, skip_bad=True)
    assert (outcome.made, outcome.done, outcome.failed) == (0, 5, ())  # its pictures are there
    picture = tmp_path / "run" / outcome.rows[0].values()["pictures"][-1]
    picture.unlink()
    assert run(rows, skip_bad=True).made == 1
    assert picture.exists()
    assert run(rows, skip_bad=True, rerun="all").made == 4


def test_a_row_that_fails_leaves_the_others(
    run: Run, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Maker._tried

    def fails(self: Maker, items: Any) -> Any:
        if items[0].row.number == 2:
            raise RuntimeError("oh")
        return real(self, items)

    monkeypatch.setattr(Maker, "_tried", fails)
    outcome = run(rows)
    (failed,) = outcome.failed
    assert (failed.line, outcome.done) == (2, 4)
    assert "Unforeseen RuntimeError: oh" in failed.error
    assert run(rows).made == 0  # and is not tried again by itself
    monkeypatch.undo()
    assert run(rows, rerun="failed").failed == ()


def test_rows_at_once_are_as_alone(run: Run, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    alone, together = run(rows, "alone"), run(rows, "together", batch=4)
    assert together.done == 5
    for one, other in zip(alone.rows, together.rows, strict=True):
        for path, twin in zip(one.values()["pictures"], other.values()["pictures"], strict=True):
            with Image.open(tmp_path / "alone" / path) as a:
                first, recipe = np.asarray(a).astype(int), json.loads(str(a.info["masactrl"]))
            with Image.open(tmp_path / "together" / twin) as b:
                assert abs(first - np.asarray(b)).max() <= 1
                assert json.loads(str(b.info["masactrl"]))["request"] == recipe["request"]


def test_where_memory_ends_fewer_are_made_at_once(
    run: Run, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = Maker._tried, []

    def full(self: Maker, items: Any) -> Any:
        sizes.append(len(items))
        if len(items) > 1:
            raise MemoryError
        return real(self, items)

    monkeypatch.setattr(Maker, "_tried", full)
    assert run(rows, batch=2).done == 5
    assert sizes == [2, 1, 1, 1, 2, 1, 1]


def test_shards_share_a_folder_and_make_every_row_once(
    run: Run, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    made = [run(rows, shard=f"{n}/2").made for n in (1, 2)]
    assert made == [3, 2]
    assert run(rows).made == 0
    whole = run(rows, "whole")
    assert pixels(tmp_path / "run", run(rows)) == pixels(tmp_path / "whole", whole)


def test_a_folder_has_one_run_at_a_time(
    run: Run, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(rows[:1])
    store = Store(tmp_path / "run", (1, 2))
    with store.held(wait=False):
        with pytest.raises(ConfigError, match=r"in the hands of process \d+ on .* \(shard 1/2\)"):
            run(rows)
        run(rows, shard="2/2")
    with (
        Store(tmp_path / "run", (1, 1)).held(wait=False),
        pytest.raises(ConfigError, match="hands"),
    ):
        run(rows, shard="2/2")


def test_a_ledger_has_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "items.jsonl"
    with (
        Ledger.alone(path, ("key",), {"benchmark": "x"}) as ledger,
        pytest.raises(ConfigError, match=r"in the hands of process \d+ on .*; wait for it, or"),
        Ledger.alone(path, ("key",), {"benchmark": "x"}),
    ):
        pass
    ledger.add({"key": 1})
    with Ledger.alone(path, ("key",), {"benchmark": "x"}) as again:
        assert again.done(1)


def test_the_log_has_a_line_a_minute_also_of_a_row_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.02)
    with progress.Progress(2, tmp_path / "log.txt", None):
        time.sleep(0.1)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert "2 rows to make" in lines[0]
    assert "0 of 2 rows, 0 failed, 0.0 a minute" in lines[1]


def test_a_full_disk_stops_the_run_and_loses_nothing(
    run: Run, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, left = Store.write, iter([True, True, False])

    def full(self: Store, *arguments: Any) -> str:
        if not next(left):
            raise OutputError("no space")
        return real(self, *arguments)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(OutputError, match="no space"):
        run(rows)
    monkeypatch.setattr(Store, "write", real)
    assert run(rows).made == 3


def test_a_line_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, ("key",))
    for key in "abc":
        ledger.add({"key": key, "value": "x" * 50})
    whole = path.read_bytes()
    for cut in range(len(whole) * 2 // 3 + 1, len(whole) - 1, 7):
        path.write_bytes(whole[:cut])
        again = Ledger(path, ("key",))
        assert [again.done(key) for key in "abc"] == [True, True, False]
        again.add({"key": "c", "value": "x" * 50})
        assert path.read_bytes() == whole


def test_no_picture_depends_on_the_rows_before_it(
    run: Run, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    wider = [{**row, "start_layer": 4 - n, "start_step": 0} for n, row in enumerate(rows[:2])]
    for mode in ({}, {"mode": "ahead"}):
        some = [{**row, **mode} for row in wider]
        one, other = run(some, f"one{len(mode)}"), run(some[::-1], f"other{len(mode)}")
        made = pixels(tmp_path / f"one{len(mode)}", one)
        assert made == pixels(tmp_path / f"other{len(mode)}", other)


def test_a_plan_says_what_it_takes_and_makes_nothing(
    run: Run, rows: list[dict[str, Any]], spec: ModelSpec, tmp_path: Path
) -> None:
    rows.append({"source_prompt": "a", "target_prompt": "b", "start_layer": 99, "steps": 2})
    plan = plan_batch(rows, tmp_path / "none", model=spec)
    assert (plan.rows, plan.todo) == (5, 5)
    assert plan.passes > 5 * 2 * 3
    assert plan.seconds > 0
    assert plan.bytes > 0
    assert any("line 6: " in line and "99" in line for line in plan.lines())
    assert not (tmp_path / "none").exists()
    with pytest.raises(WrongRows):
        run(rows)


def test_jobs_of_a_source_stay_with_their_worker() -> None:
    class Job:
        def __init__(self, group: str | None) -> None:
            self.group = group

    jobs = [Job(group) for group in ("a", "b", "a", "b", None, "c", "c", "c")]
    queue = JobQueue(jobs)
    taken: dict[str, list[Any]] = {"one": [], "two": []}
    for _ in range(4):
        for worker in taken:
            taken[worker].append(queue.next(worker).group)
    assert taken == {"one": ["a", "a", None, "c"], "two": ["b", "b", "c", "c"]}
    assert queue.next("one") is None
    assert not queue


def test_an_engine_of_this_process_goes_in_order() -> None:
    with Here(lambda job: -job) as engine:
        assert [*engine.run([3, 1])] == [Finished(job=3, answer=-3), Finished(job=1, answer=-1)]
    assert isinstance(batch_run.engine_of(BatchOptions(), print), Here)
