from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.pictures.images import read_recipe, save_png


@pytest.fixture
def made(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The folder of a run of one second."""
    words = ["generate", "a cat", "--to", "a dog", "--model", str(model_folder), "--steps", "2"]
    words += ["--start-step", "1", "--size", "16x16", "--device", "cpu", "-o", str(tmp_path / "o")]
    assert main(words) == 0
    capsys.readouterr()
    return tmp_path / "o"


def parameters(path: Path) -> str | None:
    with Image.open(path) as image:
        image.load()
        return image.info.get("parameters")


@pytest.mark.parametrize("name", ["sheet", "target1-controlled"])
def test_a_picture_is_made_again(
    name: str, made: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = made / "again.png"
    words = ["rerun", str(made / f"{name}.png"), "--model", str(model_folder), "-o", str(again)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == "The picture is the same to the bit.\n"
    assert shown.err == ""
    assert read_recipe(again) == read_recipe(made / f"{name}.png")
    assert parameters(again) == parameters(made / f"{name}.png")
    assert (parameters(again) is None) == (name == "sheet")
    assert main([*words, "--json"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--json", "--overwrite", "--no-metadata"]) == 0
    assert read_recipe(again) is None
    assert parameters(again) is None
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] is True
    assert told["differences"] == []


def test_what_differs_is_said(
    made: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made / "source.png"
    recipe = read_recipe(path)
    assert recipe is not None
    recipe["versions"]["torch"] = "1.0"
    recipe["model"]["weights"] = "0" * 16
    with Image.open(path) as image:
        other = image.convert("RGB")
    other.putpixel((0, 0), tuple(255 - level for level in other.getpixel((0, 0))))
    save_png(path, other, recipe)
    assert main(["rerun", str(path), "--model", str(model_folder)]) == 0
    shown = capsys.readouterr()
    assert "The pictures differ" in shown.out
    assert "made with torch 1.0" in shown.err
    assert "weights of tiny are not those" in shown.err


def test_what_cannot_be_made_again_is_said_at_once(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made / "source.png"
    assert main(["rerun", str(path), "-o", str(made / "no" / "a.png")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    recipe = read_recipe(path)
    assert recipe is not None
    for change, sentence in (
        ({"schema": 99}, "has schema 99, and masactrl"),
        ({"kind": "film"}, "kind 'film'; this version can make again"),
        ({"model": {"name": "/etc/passwd", "kind": "hub"}}, "say where it is with --model PATH"),
        ({"inputs": [{"name": "/etc/passwd", "hash": "0"}]}, "give one path for each"),
    ):
        with Image.open(path) as image:
            save_png(made / "other.png", image.convert("RGB"), recipe | change)
        assert main(["rerun", str(made / "other.png")]) == 2
        shown = capsys.readouterr()
        assert sentence in shown.err
        assert len(shown.err.splitlines()) == 1


def test_nothing_local_is_guessed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", str(made / "source.png")]) == 2
    assert "say where it is with --model PATH" in capsys.readouterr().err
    assert main(["rerun", str(made / "sheet.json")]) == 2
    assert "give the PNG" in capsys.readouterr().err
    words = ["rerun", str(made / "source.png"), "--input", str(made / "sheet.png")]
    assert main(words) == 2
    assert "made from 0 inputs" in capsys.readouterr().err
    assert main(["rerun", str(made / "source.png"), "--model", "x", "--lora", "a.safetensors"]) == 2
    assert "made with 0 LoRAs" in capsys.readouterr().err
