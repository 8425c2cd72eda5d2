from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.pictures.images import read_recipe
from masactrl.runs.session import EditSession

pytestmark = pytest.mark.usefixtures("loaded_once")


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
    head, figure, cells = shown.out.splitlines()
    assert "4 cells, S=0,1, L=9,12" in head
    assert Path(figure).name == "sweep.png"
    assert cells.endswith("target*-S*-L*.png")
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert written == read_recipe(tmp_path / "out" / "sweep.png")
    assert written["request"]["run"]["strength"] == 0.5
    assert written["inputs"][0]["name"] == "photo.png"
    assert len(list((tmp_path / "out").glob("target1-S*-L*.png"))) == 4


def test_a_prompt(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.toml"
    job.write_text('source = "a cat sitting"\nseed = 3\nsize = "24x16"\nno-metadata = true\n')
    more = ["start-layer=9,12", "--config", str(job), "--seed", "7", "--json"]
    assert main([*words, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["of"], told["request"]["seed"], told["request"]["width"]) == ("generate", 7, 24)
    assert len(told["axes"]["start_step"]) == 1
    assert {len(told["cells"]), len(list((tmp_path / "out").glob("target1-*.png")))} == {2}
    assert read_recipe(Path(told["figure"])) is None
    assert list((tmp_path / "out").glob("*.json")) == []


def test_other_settings(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--source", "a cat sitting", "--size", "24x16", "cfg=1,4", "seed=1,2"]
    assert main([*words, *more, "--plan", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [(one["cfg"], one["seed"], one["cells"]) for one in plans][:2] == [(1, 1, 1), (1, 2, 1)]
    assert main([*words, *more]) == 0
    out = tmp_path / "out"
    assert {one.name for one in out.iterdir() if one.is_dir()} == {
        f"cfg-{cfg}_seed-{seed}" for cfg in (1, 4) for seed in (1, 2)
    }
    assert Path(capsys.readouterr().out.splitlines()[-1]) == out / "sweep.png"
    (cell,) = (out / "cfg-1_seed-2").glob("target1-*.png")
    recipe = read_recipe(cell)
    assert recipe is not None
    assert (recipe["request"]["run"]["guidance_scale"], recipe["request"]["run"]["seed"]) == (1, 2)
    with Image.open(out / "sweep.png") as all_, Image.open(cell.parent / "sweep.png") as one:
        assert all_.height > 3 * one.height
    assert main([*words, *more, "--seed", "3"]) == 2
    assert "--seed and the axis seed are both given" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "photo.png"), "size=2"]) == 2


def test_an_interrupt_keeps_the_cells_that_are_done(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit = EditSession.edit

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return edit(*args, **kwargs)

    monkeypatch.setattr(EditSession, "edit", interrupted)
    assert main([*words, str(tmp_path / "photo.png"), "start-layer=9,12", "--json"]) == 130
    shown = capsys.readouterr()
    assert "Finishing this picture" in shown.err
    assert "1 of 2 cells are done; there is no figure." in shown.err
    told = json.loads(shown.out)
    assert (told["figure"], len(told["cells"])) == (None, 1)
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["target1-S0-L9.png"]


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["start-step=1"], 2, "Neither is given; give one"),
        (["PHOTO", "--source", "a cat", "start-step=1"], 2, "Both are given; give one"),
        (["--source", "a cat", "--from", "a cat", "start-step=1"], 2, "--from belongs to a pict"),
        (
            ["--source", "a cat", "--no-replay", "start-step=1"],
            2,
            "--replay belongs to a picture that is",
        ),
        (["--source", " ", "start-step=1"], 2, "source prompt is empty"),
        (["PHOTO", "start-step=1", "--size", "16x16"], 2, "--size belongs to a prompt"),
        (["PHOTO"], 2, "needs an axis, for example"),
        (["PHOTO", "PHOTO", "start-step=1"], 2, "has one picture"),
        (["PHOTO", "start=1"], 2, "is no axis"),
        (["PHOTO", "start-step=2"], 2, "0 to 1"),
        (["PHOTO", "start-layer=15-16"], 2, "0 to 15"),
        (["none.png", "start-step=1"], 2, "There is no file none.png"),
        (["PHOTO", "start-step=1", "--seed", "1"], 2, "direct has no use for it"),
        (["PHOTO", "start-step=1", "--revision", "main"], 2, "belongs to a Hub id"),
        (["PHOTO", "start-step=1", "--model", "old.ckpt"], 2, "--allow-pickle"),
        (["PHOTO", "start-step=1", "-o", "/dev/null/out"], 1, "/dev/null/out cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str],
    more: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = str(tmp_path / "photo.png")
    assert main([*words, *(photo if word == "PHOTO" else word for word in more)]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert sentence in shown.err
