"""The table of a GPU is on disk after every row, and says what was left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_the_path() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in ("gpu", "gpu_models", "edit_runs"):
        sys.modules.pop(name, None)


def test_rows_and_what_is_left_out(tmp_path: Path) -> None:
    import gpu

    table = gpu.Table(tmp_path / "table.md", "cpu", minutes=10)
    group = gpu.Group(model="sd", dtype="float16", runs=("plain", "first", "further", "official"))
    gpu.measure(group, table, "cpu", tiny=True, repeats=1)
    text = (tmp_path / "table.md").read_text()
    assert text.count("| float32 | no | 1 |") == 4
    told = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [one["run"] for one in told] == list(group.runs)
    assert told[0]["ratio"] == 1
    assert told[1]["parts"]["invert"] > 0

    late = gpu.Table(tmp_path / "late.md", "cpu", minutes=0)
    gpu.measure(group, late, "cpu", tiny=True, repeats=1)
    assert "left out: sd, float32, not compiled, 1 picture(s)" in (tmp_path / "late.md").read_text()
