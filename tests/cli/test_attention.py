"""`masactrl attention`: from a picture to where its points looked, and again from its recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.pictures.images import read_recipe
from masactrl.rerun.kinds import command_line
from masactrl.runs.recipe import Recipe

SMALL = ["--steps", "2", "--start-step", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    words = ["generate", "a cat", "--to", "a dog", "--to", "a red bird", *SMALL]
    assert main([*words, "--model", str(model_folder), "-o", str(folder)]) == 0
    return folder


def test_points_of_a_picture_are_looked_up_and_made_again(
    made: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(model_folder), "--device", "cpu"]
    words = ["attention", str(made / "target2-controlled.png"), "--at", "20,30", "--at", "63, 0"]
    assert main([*words, "--layer", "13", *model, "-o", f"{tmp_path}/a", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["at"] for one in told["points"]] == [[20, 30], [63, 0]]
    assert told["points"][0]["layers"] == [13]
    assert told["points"][0]["share_of_source"] == 1.0
    path = tmp_path / "a" / "attention.png"
    recipe = Recipe.parse(read_recipe(path))
    assert (recipe.kind, recipe.request["target"]) == ("attention", 2)
    assert command_line(recipe).startswith(
        "masactrl attention target2-controlled.png --at 20,30 --at 63,0 --layer 13"
    )
    assert main(["rerun", str(path), *model]) == 0
    assert "same to the bit" in capsys.readouterr().out


def test_an_edit_needs_its_picture(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "a.png")
    model = ["--model", str(model_folder)]
    words = ["edit", str(tmp_path / "a.png"), "--to", "a dog", *SMALL, *model]
    assert main([*words, "-o", f"{tmp_path}/out"]) == 0
    picture = f"{tmp_path}/out/target1-controlled.png"
    asked = ["attention", picture, "--at", "63,47", "--device", "cpu", *model]
    assert main([*asked, "-o", f"{tmp_path}/a"]) == 2
    assert "give one path for each" in capsys.readouterr().err
    assert main([*asked, "--input", f"{tmp_path}/a.png", "-o", f"{tmp_path}/a"]) == 0
    assert "63,47 looks most at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["target1-controlled.png", "--at", "5"], "'5' is no point"),
        (["target1-controlled.png", "--at", "64,0"], "0 to 63 across"),
        (["target1-controlled.png", "--at", "5,5", "--step", "0"], "step 0 was asked for"),
        (["target1-controlled.png", "--at", "5,5", "--layer", "3"], "layer 3 was asked for"),
        (["target1-controlled.png", "--at", "5,5", "--target", "3"], "targets 1 to 2"),
        (["source.png", "--at", "5,5"], "say which target's points"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    words: list[str],
    sentence: str,
    made: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["attention", str(made / words[0]), *words[1:], "--device", "cpu"]
    assert main([*asked, "--model", str(model_folder), "-o", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "attention.png").exists()
