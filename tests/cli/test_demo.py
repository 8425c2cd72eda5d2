from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from masactrl import models
from masactrl.cli import demo, main
from masactrl.cli.demo import ROWS
from masactrl.models import LoadedModel, load_pipeline
from masactrl.pictures.images import read_recipe
from masactrl.runs.prompts import prompt_warnings
from masactrl.runs.recipe import Recipe
from masactrl.studies.compare_figures import ComparisonFigures

SHORT = ROWS[:2]
COUNT = 3 * len(SHORT)


@pytest.fixture
def tiny_demo(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of the demo on the tiny model in the part of the embedded one, two steps each."""
    monkeypatch.setattr(demo, "ROWS", SHORT)
    preset = dataclasses.replace(model.preset, steps=2, start_step=0, height=16, width=16)
    puppets = dataclasses.replace(model, family="puppets", preset=preset)
    monkeypatch.setattr(models, "load_pipeline", lambda *args, **kwargs: puppets)


def figures() -> tuple[ComparisonFigures, ...]:
    return tuple(
        ComparisonFigures(
            seen="cat standing, meadow",
            action_right=True,
            identity_error=float(index),
            background=30.0,
        )
        for index in range(COUNT)
    )


@pytest.mark.usefixtures("tiny_demo")
def test_single_pictures_a_sheet_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_read", lambda results: figures())
    assert main(["demo", "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""  # among others, the embedded model knows every word of the rows
    for words in ("MasaCtrl", "cat standing, meadow", "5.0", "2.5 without", "demo.png"):
        assert words in shown.out
    assert len(list(tmp_path.glob("row*.png"))) == COUNT
    recipe = read_recipe(tmp_path / "row2-controlled.png")
    assert recipe is not None
    assert recipe["request"]["source_prompt"] == ROWS[1][0]
    assert Recipe.parse(read_recipe(tmp_path / "demo.png")).kind == "demo"
    for name in ("demo", "row2-controlled"):
        # The tiny model is a folder, which nobody but its owner can name.
        assert main(["rerun", str(tmp_path / f"{name}.png"), "--model", "tiny"]) == 0
        assert capsys.readouterr().out == "The picture is the same to the bit.\n"


@pytest.mark.usefixtures("tiny_demo")
def test_an_interrupt_keeps_the_rows_that_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = demo.generate

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return run(*args, **kwargs)

    monkeypatch.setattr(demo, "generate", interrupted)
    monkeypatch.setattr(demo, "_read", lambda results: None)
    assert main(["demo", "-o", str(tmp_path), "--json"]) == 130
    shown = capsys.readouterr()
    assert "1 of 2 rows are done" in shown.err
    assert len(json.loads(shown.out)["pictures"]) == 3
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "demo", "row1-source", "row1-uncontrolled", "row1-controlled",
    }  # fmt: skip


@pytest.mark.usefixtures("tiny_demo")
def test_without_an_inspector_the_pictures_are_made_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_read", lambda results: None)
    assert main(["demo", "-o", str(tmp_path)]) == 0
    assert "has no inspector" in capsys.readouterr().out
    assert main(["demo", "-o", str(tmp_path), "--json", "--overwrite"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["pictures"]) == COUNT
    assert {one["inspector"] for one in told["pictures"].values()} == {None}
    assert main(["demo", "-o", str(tmp_path)]) == 1
    assert "already" in capsys.readouterr().err


def test_the_inspector_measures_against_the_source_of_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, str]] = []

    def read(pictures: list[Any], prompt: str) -> tuple[ComparisonFigures, ...]:
        asked.append((len(pictures), prompt))
        return figures()[: len(pictures)]

    made = [SimpleNamespace(pictures=dict, targets=[SimpleNamespace(prompt=p)]) for p in "ab"]
    for one in made:
        one.pictures = lambda: {"source": 1, "uncontrolled": 2, "controlled": 3}
    monkeypatch.setattr(demo, "read_figures", read)
    assert demo._read(made) == figures()[:3] * 2  # type: ignore[arg-type]
    assert asked == [(3, "a"), (3, "b")]
    monkeypatch.setattr(demo, "read_figures", lambda *_: None)
    assert demo._read(made) is None  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_demo_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "-o", str(tmp_path), "--device", "cpu", "--steps", "2", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["pictures"]) == 3 * len(ROWS)


def test_the_embedded_model_brings_its_settings_and_words() -> None:
    model = load_pipeline("puppets", device="cpu")
    assert (model.name, model.family) == ("puppets", "puppets")
    assert prompt_warnings(model, [prompt for row in ROWS for prompt in row[:2]]) == ()
