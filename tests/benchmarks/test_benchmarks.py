"""The benchmarks run at a tiny size and write into their own section of the page only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DOCS = Path(__file__).parents[2] / "docs"

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def _on_the_path() -> Iterator[None]:
    """The scripts import each other as they do when they are started from their folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in ("edit_cost", "edit_runs", "page"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def found(_on_the_path: None) -> dict[str, Any]:
    """What one small measurement finds, all in this process."""
    import edit_cost
    import edit_runs

    settings = edit_runs.Settings(size=64, steps=2, repeats=1, tiny=True)
    model = edit_runs.build_model(settings)
    measured = edit_runs.measure_time(model, settings)
    measured["vae"] = edit_runs.measure_vae(settings)
    measured["full"] = edit_cost.full_run(settings, model, measured)
    measured["memory"] = {
        "plain": {"held": 2**30, "peak": 3 * 2**30, "cache": 0},
        "edit": {"held": 2**30, "peak": 4 * 2**30, "cache": 2**20},
    }
    return measured


def test_the_rows_are_those_of_the_method(found: dict[str, Any]) -> None:
    assert found["rows"] == {"plain": 4, "first": 2 + 4, "exact": 2 + 2 + 4, "further": 4}
    assert {*found["seconds"]} == {*found["rows"], "invert", "source", "edit"}
    assert min(found["seconds"].values()) > 0
    plan = found["full"]["plan"]
    assert (plan["plain"], plan["inversion"], plan["source"], plan["edit"]) == (100, 50, 47, 100)
    assert found["full"]["whole"]["further"] > found["full"]["unet"]["further"]


def test_the_page_says_which_aims_are_met(found: dict[str, Any]) -> None:
    import edit_cost
    import edit_runs

    settings = edit_runs.Settings(threads=2)
    quick = found | {"seconds": {"plain": 10.0, "first": 15.2, "exact": 20.5, "further": 11.5}}
    text = edit_cost.page(settings, quick)
    assert "Stable Diffusion 1.5's U-Net with random weights, 512x512, guidance 7.5" in text
    assert "| each further edit | 4 | 1.00 | 11.50 | 1.15 |" in text
    assert "first edit with an exact source, time over plain: 2.05 (aim 2.1): met" in text
    assert "first edit, time over plain: 1.52 (aim 1.55): met" in text
    assert "further edit, time over plain: 1.15 (aim 1.1): not met" in text
    assert "peak memory above the model's own over plain: 1.50 (aim 1.5): met" in text


@pytest.mark.parametrize("case", ["plain", "edit"])
def test_memory_is_measured_by_the_script_itself(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import edit_cost

    words = f"edit_cost --memory-of {case} --size 64 --steps 2 --tiny".split()
    monkeypatch.setattr(sys, "argv", words)
    edit_cost.main()
    measured = json.loads(capsys.readouterr().out)
    assert measured["peak"] >= measured["held"] > 2**20
    assert (measured["cache"] > 0) == (case == "edit")


def test_a_section_leaves_the_others_alone(tmp_path: Path) -> None:
    from page import write_into

    page = tmp_path / "cost.md"
    page.write_text((DOCS / "cost.md").read_text())
    before = page.read_text()
    write_into(page, "attention", "ours")
    write_into(page, "edits", "theirs\n")
    once = page.read_text()
    assert "<!-- attention: begin -->\n\nours\n\n<!-- attention: end -->" in once
    assert "<!-- edits: begin -->\n\ntheirs\n\n<!-- edits: end -->" in once
    assert once.startswith(before[: before.index("<!-- attention")])
    write_into(page, "attention", "ours")
    assert page.read_text() == once
    with pytest.raises(SystemExit, match="no marks <!-- else: begin -->"):
        write_into(page, "else", "nothing")


def test_joint_attention_at_a_tiny_size() -> None:
    import mmdit_cost

    threads = torch.get_num_threads()
    costs = {name: mmdit_cost.measure("flux", name, 64, True) for name in mmdit_cost.RUNS}
    costs |= {"record": mmdit_cost.measure("sd3.5-medium", "record", 64, True)}
    torch.set_num_threads(threads)
    assert [costs[name].rows for name in mmdit_cost.RUNS] == [1, 2, 2, 2, 2, 2, 1]
    # a layer each, the second attention as well: branches x tokens x channels x bytes
    assert costs["record"].recorded == 3 * 2 * 16 * 32 * 4
    text = mmdit_cost.table("flux", 64, costs)
    assert "16 tokens of picture, 512 of text" in text
    assert text.count("\n| ") == len(mmdit_cost.RUNS) + 1
