"""Ctrl-C while one picture is made: it is finished and kept, and the exit says 130."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.rerun import attention as attention_rerun
from masactrl.rerun import kinds as again
from masactrl.studies import sweep

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def made(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A picture of a run of one second."""
    words = ["generate", "a cat", "--to", "a dog", "--model", str(model_folder), "--steps", "2"]
    words += ["--start-step", "1", "--size", "16x16", "--device", "cpu", "-o", str(tmp_path / "o")]
    assert main(words) == 0
    capsys.readouterr()
    return tmp_path / "o" / "target1-controlled.png"


def interrupted(function: Any) -> Any:
    """Return the function with Ctrl-C at its beginning."""

    def run(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **kwargs)

    return run


def test_a_picture_that_is_made_again(
    made: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(again, "rerun_recipe", interrupted(again.rerun_recipe))
    words = ["rerun", str(made), "--model", str(model_folder), "-o", str(tmp_path / "a.png")]
    assert main([*words, "--json"]) == 130
    shown = capsys.readouterr()
    assert json.loads(shown.out)["equal"] is True
    assert "Finishing this picture" in shown.err
    assert "Interrupted: the picture was finished first." in shown.err
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_a_look_at_attention(
    made: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = attention_rerun.rerun_watched
    monkeypatch.setattr(attention_rerun, "rerun_watched", interrupted(watch))
    words = ["attention", str(made), "--at", "5,5", "--model", str(model_folder)]
    assert main([*words, "--device", "cpu", "-o", str(tmp_path / "a")]) == 130
    assert "the picture was finished first" in capsys.readouterr().err
    with Image.open(tmp_path / "a" / "attention.png") as figure:
        assert "masactrl" in figure.info


def test_a_sweep_whose_last_cell_was_interrupted_is_whole_and_says_130(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "sweep", interrupted(sweep.sweep))
    words = ["sweep", "start-layer=12", "--source", "a cat", "--to", "a dog", "--steps", "2"]
    words += ["--size", "16x16", "--device", "cpu", "--model", str(model_folder)]
    assert main([*words, "-o", str(tmp_path)]) == 130
    assert "1 of 1 cells are done." in capsys.readouterr().err
    assert (tmp_path / "sweep.png").exists()
