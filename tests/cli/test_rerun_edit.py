"""An edited picture says the command that makes it, and is made again to the bit."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.pictures.images import read_recipe, save_png

pytestmark = pytest.mark.usefixtures("loaded_once")


def picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (44, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path) -> Path:
    pixels = np.zeros((44, 60), dtype=np.uint8)
    pixels[:, :30] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    """An edit of two seconds: the tiny model, two steps, 60 x 44 pixels."""
    made = ["edit", str(picture(tmp_path / "photo.png")), "--to", "a cat running"]
    made += ["--model", str(model_folder), "--device", "cpu", "--steps", "2", "--start-step", "1"]
    return [*made, "-o", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--cfg", "3", "--form", "union", "--seed", "4", "--fresh-steps", "1"], ["sheet"]),
        (
            ["--from", "a cat", "--inversion", "edit-friendly", "--noise-shift", "200"],
            ["target1-controlled"],
        ),
        (["--mask-file", "MASK", "--keep-background"], ["target1-controlled", "target1-mask"]),
        (
            [
                *("--from", "a cat", "--inversion", "null-text", "--iterations", "1"),
                *("--no-compare", "--mask-word", "cat", "--mode", "joint", "--no-replay"),
            ],
            ["target1-controlled"],
        ),
    ],
)
def test_an_edit_is_made_again_to_the_bit(
    words: list[str],
    options: list[str],
    names: list[str],
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By `rerun`, and by the command that `info --cli` prints."""
    drawn = mask(tmp_path / "mask.png")
    given = [str(drawn) if word == "MASK" else word for word in options]
    assert main([*words, *given]) == 0
    inputs = ["--input", str(tmp_path / "photo.png")]
    inputs += ["--input", str(drawn)] if "MASK" in options else []
    for name in names:
        path = tmp_path / "out" / f"{name}.png"
        capsys.readouterr()
        assert main(["rerun", str(path), "--model", str(model_folder), *inputs]) == 0
        shown = capsys.readouterr()
        assert shown.out == "The picture is the same to the bit.\n"
        assert shown.err == ""
    assert main(["info", str(path), "--cli"]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[:3] == ["masactrl", "edit", "photo.png"]
    where = {"photo.png": str(tmp_path / "photo.png"), "mask.png": str(drawn)}
    where["tiny"] = str(model_folder)
    again = [where.get(word, word) for word in command[1:]]
    assert main([*again, "-o", str(tmp_path / "again")]) == 0
    before, after = (tmp_path / one / path.name for one in ("out", "again"))
    assert before.read_bytes() == after.read_bytes()


def test_an_edit_of_a_kept_session_is_made_again_to_the_bit(
    words: list[str], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["--session", str(tmp_path / "photo.safetensors"), "--overwrite"]
    for _ in range(2):  # that writes the session, and that reads it
        assert main(words) == 0
        capsys.readouterr()
        path = str(tmp_path / "out" / "target1-controlled.png")
        inputs = ["--input", str(tmp_path / "photo.png")]
        assert main(["rerun", path, "--model", str(model_folder), *inputs]) == 0
        assert capsys.readouterr().out == "The picture is the same to the bit.\n"


def test_the_input_is_given_by_its_owner_and_compared(
    words: list[str], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    path = str(tmp_path / "out" / "target1-controlled.png")
    capsys.readouterr()
    again = ["rerun", path, "--model", str(model_folder), "--json"]
    assert main(again) == 2
    assert "made from 1 inputs (photo.png)" in capsys.readouterr().err
    other = picture(tmp_path / "other.png", seed=1)
    assert main([*again, "--input", str(other)]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["equal"] is False
    assert told["differences"] == [f"{other} is not the photo.png that the picture was made from."]
    assert "is not the photo.png" in shown.err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": "2"}, "steps"),
        ({"sead": 1}, "not known: sead"),
        ({"inversion": {"method": "guess"}}, "method='guess' was given; accepted are direct"),
        ({"masks": {"by": "pictures", "threshold": 0.1}}, "masks that were no files"),
        ({"form": "both"}, "form"),
    ],
)
def test_a_recipe_from_anywhere_is_checked(
    change: dict[str, object],
    sentence: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = json.loads(RECIPE)
    recipe["request"] |= change
    save_png(tmp_path / "a.png", Image.new("RGB", (60, 44)), recipe)
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_recipe_names_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = json.loads(RECIPE)
    recipe["inputs"] = [{"name": "../../etc/passwd", "hash": "0"}]
    save_png(tmp_path / "a.png", Image.new("RGB", (60, 44)), recipe)
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 0
    assert capsys.readouterr().out.startswith("masactrl edit passwd --to")
    recipe["inputs"] = []
    save_png(tmp_path / "a.png", Image.new("RGB", (60, 44)), recipe)
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 2
    assert "does not name the picture" in capsys.readouterr().err


RECIPE = """
{"schema": 2, "masactrl": "0.1.0", "kind": "edit", "picture": "target1-controlled",
 "model": {"name": "puppets", "kind": "embedded", "revision": null, "weights": null, "loras": []},
 "device": "cpu", "dtype": "float32", "versions": {},
 "inputs": [{"name": "photo.png", "hash": "0"}],
 "request": {"target_prompts": ["a dog"], "steps": 2, "guidance_scale": 3.0,
  "negative_prompt": null, "start_step": 1, "start_layer": 10, "form": "replace", "strength": 1.0,
  "keep_background": false, "compare": true, "mode": "cached", "keep": "memory", "half": true,
  "masks": null, "inversion": {"method": "direct"}}}
"""


def test_options_that_every_command_has(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.toml"
    job.write_text('start-layer = 9\nform = "union"\ncompare = false\nno-metadata = true\n')
    assert main([*words, "--config", str(job), "--start-layer", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    asked = told["request"]
    assert (asked["start_layer"], asked["form"], asked["compare"]) == (8, "union", False)
    assert read_recipe(tmp_path / "out" / "sheet.png") is None
    assert not (tmp_path / "out" / "sheet.json").exists()
    job.write_text("sart-layer = 9\n")
    assert main([*words, "--config", str(job)]) == 2
    assert "did you mean start-layer?" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--lora", "none.safetensors:0.5"]) == 1
    assert "none.safetensors" in capsys.readouterr().err
