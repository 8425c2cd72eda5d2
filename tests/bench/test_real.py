"""Edits of drawn pictures after every inversion: tasks, rows, judgement, table."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from masactrl import models
from masactrl.bench.real import BASELINES, RealSettings, measure_real, picture_path, real_tasks
from masactrl.bench.real_report import FIGURES, real_markdown, real_means, real_sheet
from masactrl.cli import main
from masactrl.errors import ConfigError
from masactrl.inversion import inversions_of
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.scene import sample_scenes
from masactrl.puppets.training.data import HELD_OUT_SEED

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

FEW = RealSettings(
    count=2, steps=2, start_step=1, start_layer=9, inversions=("direct", "ddim"), pictures=1
)


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    torch.manual_seed(0)
    return Inspector().requires_grad_(False).eval()


def test_tasks_are_held_out_and_change_the_action_alone() -> None:
    tasks = real_tasks(40, 0)
    assert tasks[:7] == real_tasks(7, 0) != real_tasks(7, 1)
    held_out = sample_scenes(40, seed=HELD_OUT_SEED, close_up=0.0)
    for task, scene in zip(tasks, held_out, strict=True):
        assert task.source == scene
        assert task.target == scene.acting(task.target.pose.action)
        assert task.target.pose.action != scene.pose.action
        assert task.source_prompt != task.target_prompt
        assert scene.camera.shot == "full body"


def test_rows_of_every_kind(model: LoadedModel, inspector: Inspector, tmp_path: Path) -> None:
    ticks: list[tuple[int, int]] = []
    ledger = measure_real(
        model, inspector, FEW, tmp_path, on_progress=lambda *tick: ticks.append(tick)
    )
    assert ticks == [(1, 2), (2, 2)]
    rows = list(ledger)
    names = [*BASELINES, "direct", "ddim"]
    assert [row["row"] for row in rows] == names * 2
    assert not [row for row in rows if "error" in row]
    figures = {(row["task"], row["row"]): row["figures"] for row in rows}
    for task in ("0000", "0001"):
        nothing = figures[task, "doing nothing"]
        assert (nothing["identity"], nothing["pattern"], nothing["passes"]) == (0, 0, 0)
        assert nothing["background"] == 60
        direct, ddim = figures[task, "direct"], figures[task, "ddim"]
        # Direct inversion is put back on its way: the VAE's picture, which ddim need not reach.
        assert direct["reconstruction"] == direct["ceiling"] == ddim["ceiling"]
        assert (direct["passes"], ddim["passes"]) == (2 + 4, 2 + 2 + 4)
        assert figures[task, "prompt only"]["passes"] == 4
        assert figures[task, "ground truth"]["reconstruction"] is None
    for name in names:
        assert picture_path(tmp_path, "0000", name).exists()
        assert not picture_path(tmp_path, "0001", name).exists()
    # What is finished is not run again; another setting is another folder.
    again = measure_real(model, inspector, FEW, tmp_path)
    assert list(again) == rows
    with pytest.raises(ConfigError, match="another steps"):
        measure_real(model, inspector, RealSettings(count=1, steps=3), tmp_path)
    means = real_means(rows)
    assert list(means) == names
    assert means["prompt only"]["reconstruction"] is None
    table = real_markdown(means, {**FACTS, "model": "tiny"})
    assert "| direct, replay |" in table
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + len(names)
    sheet = real_sheet(tmp_path, real_tasks(2, 0), rows)
    assert sheet is not None
    assert sheet.width > len(names) * 192
    assert real_sheet(tmp_path / "none", real_tasks(2, 0), rows) is None


FACTS = {"count": 2, "steps": 2, "guidance": 4.0, "start_step": 1, "start_layer": 9}


def test_options_of_a_row(model: LoadedModel, inspector: Inspector, tmp_path: Path) -> None:
    rows = ("ddim", "ddim:fresh_steps=1")
    settings = replace(FEW, count=1, inversions=rows)
    found = {
        row["row"]: row["figures"] for row in measure_real(model, inspector, settings, tmp_path)
    }
    assert found["ddim:fresh_steps=1"]["passes"] == found["ddim"]["passes"] - 1
    assert picture_path(tmp_path, "0000", rows[1]).exists()
    assert "ddim (fresh_steps=1)" in real_markdown(
        real_means(measure_real(model, inspector, settings, tmp_path)), {**FACTS, "model": "tiny"}
    )
    few = ("virtual+unified:steps=4", "edit-friendly:steps=4,noise_shift=200,away=1.5")
    settings = replace(FEW, count=1, inversions=few)
    ledger = measure_real(model, inspector, settings, tmp_path / "few")
    rows = {row["row"]: row for row in ledger}
    assert [rows[name]["figures"]["passes"] for name in few] == [16, 4 + 8 + 8]
    assert "| virtual+unified (steps=4), replay |" in real_markdown(
        real_means(ledger), {**FACTS, "model": "tiny"}
    )
    for row, sentence in (
        ("direct:patience", "write NAME:OPTION=NUMBER"),
        ("direct:away=much", "write NAME:OPTION=NUMBER"),
        ("direct:fresh_noise=half", "write NAME:OPTION=NUMBER"),
        ("direct+magic", "The method 'magic' is not known"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            replace(FEW, inversions=(row,))
    wrong = replace(FEW, inversions=("direct:patience=3",))
    with pytest.raises(ConfigError, match="no inversion has"):
        measure_real(model, inspector, wrong, tmp_path)


def test_a_failed_row_is_left_out_of_means() -> None:
    good = {name: 1.0 for name, *_ in FIGURES}
    rows: list[dict[str, Any]] = [
        {"task": "0000", "row": "ddim", "figures": good},
        {"task": "0001", "row": "ddim", "error": "no numbers"},
        {"task": "0000", "row": "direct", "error": "no numbers"},
    ]
    means = real_means(rows)
    action = means["ddim"]["action"]
    assert action is not None
    assert (action.mean, action.count) == (1.0, 1)
    assert means["direct"]["action"] is None
    assert "| direct, replay | - |" in real_markdown(means, {**FACTS, "model": "tiny"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": 0}, "accepted is 1 and more"),
        ({"pictures": -1}, "accepted is 0 and more"),
        ({"inversions": ("magic",)}, "accepted are direct"),
        ({"inversions": ("ddim", "ddim")}, "there twice"),
        ({"inversions": ("ddim:fresh_steps",)}, "write NAME:OPTION=NUMBER"),
        ({"inversions": ("ddim:fresh_steps=many",)}, "write NAME:OPTION=NUMBER"),
    ],
)
def test_settings_check_themselves(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RealSettings(**change)


def test_the_command_writes_tables_and_sheet(
    model: LoadedModel,
    inspector: Inspector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(models, "load_pipeline", lambda *args, **kwargs: model)
    monkeypatch.setattr(Inspector, "load", lambda: inspector)
    words = ["puppets", "measure", "real", "--count", "1", "--steps", "2", "-o", str(tmp_path)]
    words += ["--start-step", "1", "--start-layer", "9"]
    assert main([*words, "--inversion", "virtual"]) == 0
    assert "doing nothing" in capsys.readouterr().out
    written = json.loads((tmp_path / "real.json").read_text())
    assert list(written["rows"]) == [*BASELINES, "virtual"]
    assert (written["start_step"], written["failed"]) == (1, 0)
    assert (tmp_path / "real.png").exists()
    assert "virtual, replay" in (tmp_path / "real.md").read_text()
    assert RealSettings().inversions == inversions_of("diffusion")
