"""A sweep says the command that makes it; figure and cells are made again to the bit."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.pictures.images import save_png
from masactrl.rerun.kinds import KINDS, kind_of
from masactrl.rerun.sweep import plain_recipe
from masactrl.runs.recipe import Recipe, find_recipe

pytestmark = pytest.mark.usefixtures("loaded_once")

LAST = "target1-S1-L12"  # a cell that is neither the first nor in its row or column


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (44, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    "options",
    [
        ["PHOTO", "--inversion", "ddim", "--no-replay", "--form", "union", "--negative", "-x"],
        ["--source", "a cat sitting", "--seed", "7", "--size", "24x16", "--cfg", "3"],
    ],
    ids=["picture", "prompt"],
)
def test_a_sweep_is_made_again_to_the_bit(
    options: list[str],
    photo: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By `rerun`, and by the command that `info --cli` prints."""
    given = [str(photo) if word == "PHOTO" else word for word in options]
    words = ["start-step=0-1", "start-layer=9-12(+3)", "--to", "a dog", "--device", "cpu"]
    words += ["--model", str(model_folder), "--steps", "2", "-o", str(tmp_path / "out")]
    assert main(["sweep", *given, *words]) == 0
    inputs = ["--input", str(photo)] if "PHOTO" in options else []
    for name in ("sweep", LAST):
        capsys.readouterr()
        path = tmp_path / "out" / f"{name}.png"
        assert main(["rerun", str(path), "--model", str(model_folder), *inputs]) == 0
        shown = capsys.readouterr()
        assert shown.out == "The picture is the same to the bit.\n"
        assert shown.err == ""
    assert main(["info", str(tmp_path / "out" / "sweep.json"), "--cli"]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[:2] == ["masactrl", "sweep"]
    where = {"photo.png": str(photo), "tiny": str(model_folder)}
    again = [where.get(word, word) for word in command[1:]]
    assert main([*again, "-o", str(tmp_path / "again")]) == 0
    for name in ("sweep", LAST):
        before, after = (tmp_path / one / f"{name}.png" for one in ("out", "again"))
        assert before.read_bytes() == after.read_bytes()


def recipe(picture: str = LAST, of: str = "generate", **change: Any) -> Recipe:
    run: dict[str, Any] = {"source_prompt": "a cat", "target_prompts": ["a dog"], "steps": 9}
    if of == "edit":
        run = json.loads(EDIT)
    axes = {"start_step": [0, 1, 2], "start_layer": [9, 10, 12]}
    values: dict[str, Any] = {
        "schema": 2,
        "kind": "sweep",
        "picture": picture,
        "model": {"name": "puppets", "kind": "embedded"},
        "device": "cpu",
        "dtype": "float32",
        "inputs": [{"name": "../photo.png", "hash": "0"}] if of == "edit" else [],
        "request": {"of": of, "axes": axes, "run": run | change.pop("run", {})} | change,
    }
    return Recipe.parse(values)


EDIT = """
{"target_prompts": ["a dog"], "steps": 9, "guidance_scale": 3.0, "negative_prompt": null,
 "form": "replace", "strength": 1.0, "keep_background": false, "compare": true, "mode": "cached",
 "keep": "memory", "half": true, "masks": null, "inversion": {"method": "direct"}}
"""


def test_a_cell_needs_four_cells_and_not_the_grid() -> None:
    steps = KINDS["sweep"].steps
    assert steps(recipe("sweep")) == 9 * (2 + 9)
    assert steps(recipe(LAST)) == 9 * (2 + 4)
    assert steps(recipe("target1-S0-L9")) == 9 * (2 + 1)


@pytest.mark.parametrize("of", ["generate", "edit"])
def test_a_cell_is_nearly_a_plain_run(of: str) -> None:
    plain = plain_recipe(recipe(LAST, of))
    assert (plain.kind, plain.picture) == (of, "target1-controlled")
    assert (plain.request["start_step"], plain.request["start_layer"]) == (1, 12)
    assert kind_of(plain).words(plain)[0] == of


def test_a_recipe_names_no_place() -> None:
    assert kind_of(recipe(of="edit")).words(recipe(of="edit"))[1] == "photo.png"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"picture": "target2-S1-L12"}, "which its sweep does not make"),
        ({"picture": "../../x"}, "which its sweep does not make"),
        ({"axes": {"start_step": [], "start_layer": [9]}}, "an axis of its sweep is empty"),
        ({"axes": {"start_step": [1, 1], "start_layer": [9]}}, "the value 1 twice"),
        ({"axes": {"start_step": ["1"], "start_layer": [9]}}, "start_step"),
        ({"axes": {"start_step": [1], "start_layer": [9], "cfg": [1]}}, "cfg"),
        ({"of": "demo"}, "'edit' or 'generate'"),
        ({"run": {"steps": "9"}}, "steps"),
        ({"run": {"sead": 1}}, "not known: sead"),
        ({"of": "edit", "run": {"keep": "disk"}}, "--keep, for which `masactrl sweep` has no"),
    ],
)
def test_a_recipe_from_anywhere_is_checked(
    change: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), recipe(**change).to_json())
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 2
    assert sentence in capsys.readouterr().err
    assert find_recipe(tmp_path / "a.png")["kind"] == "sweep"
