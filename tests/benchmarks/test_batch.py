"""The fault campaign finds what it looks for, and its generator gives the same for a seed."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def faults() -> Iterator[ModuleType]:
    pytest.importorskip("psutil", reason="the campaign needs it")
    sys.path.insert(0, str(BENCHMARKS))
    import batch_faults

    yield batch_faults
    sys.path.remove(str(BENCHMARKS))
    for name in ("batch_faults", "page"):
        sys.modules.pop(name, None)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """An undisturbed run of two rows and another that is the same."""
    calm = tmp_path / "calm"
    rows, ledger = [], []
    for name in "ab":
        folder = calm / "pictures" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "x.png")
        rows.append({"status": "done", "pictures": [f"pictures/{name}/x.png"]})
        ledger.append({"key": name})
    for path, lines in (("results.jsonl", rows), ("ledger.jsonl", ledger)):
        (calm / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copytree(calm, tmp_path / "wild")
    return calm, tmp_path / "wild"


def test_every_kind_of_harm_is_seen(faults: ModuleType, runs: tuple[Path, Path]) -> None:
    calm, wild = runs
    assert faults.harm(calm, wild) == faults.Harm()
    Image.new("RGB", (8, 8), "red").save(wild / "pictures/a/x.png")
    (wild / "pictures/b/x.png").write_bytes((calm / "pictures/b/x.png").read_bytes()[:40])
    with (wild / "ledger.jsonl").open("a") as file:
        file.write('{"key": "a"}\n')
    results = (wild / "results.jsonl").read_text()
    (wild / "results.jsonl").write_text(results.replace("done", "failed", 1))
    assert faults.harm(calm, wild) == faults.Harm(lost=1, doubled=1, half_written=1, unequal=1)


def test_a_seed_gives_the_same_inputs() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    import batch_malformed as malformed

    def some(seed: str) -> list[object]:
        chance = random.Random(seed)
        value = {"a": [1, {"b": "c"}], "d": None}
        made = [malformed.twisted(value, chance) for _ in range(50)]
        return [*map(repr, made), *(malformed.bent(b"x" * 99, chance) for _ in range(50))]

    assert some("a") == some("a") != some("b")
    assert sum(malformed.SHARES.values()) == 5000
    sys.path.remove(str(BENCHMARKS))
