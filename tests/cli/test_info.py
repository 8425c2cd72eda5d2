from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.pictures.images import save_png
from masactrl.runs.recipe import LoraStated, ModelStated, Recipe

RECIPE = {"model": "tiny", "request": {"seed": 7, "target_prompts": ["a [bold]dog", "a fox"]}}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    save_png(path, Image.new("RGB", (8, 8)), RECIPE)
    return path


def test_a_recipe_is_shown_line_by_line(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(picture)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [[one.strip() for one in line] for line in lines] == [
        ["model", "tiny"],
        ["request.seed", "7"],
        ["request.target_prompts", "a [bold]dog"],
        ["request.target_prompts", "a fox"],
    ]


def test_a_recipe_as_json(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RECIPE


def test_a_recipe_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), {"prompt": "\x1b[31mred\x07"})
    assert main(["info", str(tmp_path / "a.png")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_has_no_recipe_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    assert main(["info", str(tmp_path / "a.png")]) == 2
    assert "carries no recipe" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "b.png")]) == 2
    assert "There is no file" in capsys.readouterr().err


def recipe(**change: object) -> Recipe:
    request = {"source_prompt": "a cat", "target_prompts": ["-a dog", 'a "big" fox'], "seed": 7}
    values = {
        "kind": "generate",
        "picture": "source",
        "model": ModelStated(name="puppets", kind="embedded"),
        "device": "cpu",
        "dtype": "float32",
        "request": request,
    }
    return Recipe(**{**values, **change})  # type: ignore[arg-type]


def test_the_command_reads_back_as_the_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), recipe().to_json())
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    name, *words = shlex.split(shown.out)
    assert name == "masactrl"
    assert main([*words, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["seeds"] == [7]
    assert plan["settings"]["source_prompt"] == "a cat"
    assert plan["settings"]["target_prompts"] == ["-a dog", 'a "big" fox']


def test_what_is_local_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = ModelStated(
        name="mine", kind="folder", loras=(LoraStated(name="s.safetensors", scale=0.8, hash="x"),)
    )
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), recipe(model=local).to_json())
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 0
    shown = capsys.readouterr()
    assert "--model mine" in shown.out
    assert "--lora s.safetensors:0.8" in shown.out
    assert shown.err.count("give its path") == 2


@pytest.mark.parametrize(
    ("schema", "sentence"), [(99, "update masactrl"), (1, "early version"), (None, "no schema")]
)
def test_another_schema_is_refused_in_a_sentence(
    schema: int | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**recipe().to_json(), "schema": schema}
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), values)
    assert main(["info", str(tmp_path / "a.png"), "--cli"]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["info", str(tmp_path / "a.png")]) == 0  # to look at, any will do
