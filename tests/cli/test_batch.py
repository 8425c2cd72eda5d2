"""`masactrl batch`: exits, events, plans, Ctrl-C, PIE-Bench as a manifest."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pie_parts import write_data

from masactrl.batch.work import Maker
from masactrl.cli import main

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    row = {"source_prompt": "a cat", "target_prompt": "a dog", "size": "16x16"}
    path.write_text("".join(json.dumps(row | {"seed": n}) + "\n" for n in range(3)))
    return path


@pytest.fixture
def words(rows: Path, model_folder: Path, tmp_path: Path) -> list[str]:
    own = ["batch", str(rows), "-o", str(tmp_path / "run"), "--model", str(model_folder)]
    return [*own, "--device", "cpu", "--set", "steps=2", "--set", "start-step=1"]


def test_all_done_is_0_and_events_are_lines_of_json(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert [event["event"] for event in events] == ["begin", "row", "row", "row", "end"]
    assert events[-1]["done"] == 3
    assert "3 of 3 rows are done" in shown.err
    assert "3 rows made" in (tmp_path / "run" / "log.txt").read_text()
    assert main(words) == 0
    assert "report.html" in capsys.readouterr().out


def test_failures_are_1_with_their_sentences(
    words: list[str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rows.open("a") as file:
        file.write('{"source_prompt": "a cat", "target_prompt": "a dog", "start_layer": 99}\n')
        file.write('{"file_name": "none.png", "target_prompt": "a dog"}\n')
    assert main(words) == 2
    assert "line 5: There is no file" in capsys.readouterr().err
    assert main([*words, "--skip-bad"]) == 1
    shown = capsys.readouterr().err
    assert "line 4: " in shown
    assert "3 of 5 rows are done (3 made now" in shown
    assert main([*words, "--plan"]) == 1
    assert "rows: 3 that can be used, 0 of them to make, 2 wrong" in capsys.readouterr().out


def test_the_first_interrupt_finishes_the_row_at_hand(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Maker._tried

    def interrupted(self: Maker, items: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, items)

    monkeypatch.setattr(Maker, "_tried", interrupted)
    assert main(words) == 130
    shown = capsys.readouterr().err
    assert "1 rows were made, 2 are left; the same command goes on" in shown
    monkeypatch.undo()


def test_pie_bench_is_a_manifest(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "pie")
    own = ["batch", "--pie-bench", str(data), "-o", str(tmp_path / "run"), *words[4:]]
    main([*own, "--plan", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["rows"] > 0
    assert plan["passes"] > 0
    reasons = [wrong["reason"] for wrong in plan["wrong"]]
    assert "000000000003: the picture 5_pose/none.jpg is missing." in reasons
    assert main(["batch", "-o", str(tmp_path / "run")]) == 2
    assert "Give a manifest" in capsys.readouterr().err
