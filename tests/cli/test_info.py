from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.images import save_png

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
    assert main(["info", str(tmp_path / "a.png")]) == 1
    assert "carries no recipe" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "b.png")]) == 2
    assert "There is no file" in capsys.readouterr().err
