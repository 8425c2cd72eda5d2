from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masactrl.cli import main


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 255, (44, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["sweep", "--to", "a cat running", "--model", str(model_folder), "--device", "cpu"]
    return [*words, "--steps", "2", "-o", str(tmp_path / "out")]


def test_a_picture(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(tmp_path / "photo.png")
    assert main([*words, photo, "start-step=0-1", "start-layer=9,12", "--strength", "0.5"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    head, figure, _ = shown.out.splitlines()
    assert "4 cells, S=0,1, L=9,12" in head
    assert Path(figure).name == "sweep.png"
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert written["request"]["strength"] == 0.5
    assert written["inputs"][0]["name"] == "photo.png"
    assert len(list((tmp_path / "out").glob("target1-S*-L*.png"))) == 4


def test_a_prompt(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--source", "a cat sitting", "start-layer=9,12", "--seed", "7", "--json"]
    assert main([*words, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["of"], told["request"]["seed"]) == ("generate", 7)
    assert len(told["axes"]["start_step"]) == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["start-step=1"], "Neither is given; give one"),
        (["PHOTO", "--source", "a cat", "start-step=1"], "Both are given; give one"),
        (["--source", "a cat", "--from", "a cat", "start-step=1"], "belong to a picture"),
        (["PHOTO"], "needs an axis, for example"),
        (["PHOTO", "PHOTO", "start-step=1"], "has one picture"),
        (["PHOTO", "start=1"], "is no axis"),
        (["PHOTO", "start-step=2"], "0 to 1"),
        (["none.png", "start-step=1"], "There is no file none.png"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str],
    more: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = str(tmp_path / "photo.png")
    assert main([*words, *(photo if word == "PHOTO" else word for word in more)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert sentence in shown.err
