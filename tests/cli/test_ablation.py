"""`masactrl bench ablation`: its figures, from a prompt and from a picture, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from editing_parts import random_picture

from masactrl.cli import main

# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")

ROWS = ("start-step", "start-layer", "places", "masks")


def words(source: str, model: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--model", str(model), "--device", "cpu", "--steps", "2", "--start-step", "1"]
    return ["bench", "ablation", source, "--to", "a dog", *fixed, "-o", str(out), *more]


def test_of_a_prompt(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("a cat", model_folder, tmp_path)) == 0
    expected = [
        str(tmp_path / f"ablation-{row}.{ending}") for row in ROWS[:3] for ending in ("png", "svg")
    ]
    assert capsys.readouterr().out.split() == expected
    assert all(Path(path).stat().st_size > 1000 for path in expected)
    assert main(words("a cat", model_folder, tmp_path)) != 0
    assert "already" in capsys.readouterr().err


def test_of_a_picture_with_a_word(model_folder: Path, tmp_path: Path) -> None:
    random_picture().save(tmp_path / "photo.png")
    asked = ["--from", "a dog", "--mask-word", "dog"]
    assert main(words(str(tmp_path / "photo.png"), model_folder, tmp_path / "out", *asked)) == 0
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {f"ablation-{r}" for r in ROWS}


@pytest.mark.parametrize(
    ("source", "more", "sentence"),
    [
        ("a cat", ("--from", "a cat"), "--from belongs to a picture"),
        ("photo.png", ("--seed", "3"), "direct has no use for it"),
        ("a cat", ("--to", "a bird"), "one --to and 2 were given"),
    ],
)
def test_what_cannot_be(
    source: str,
    more: tuple[str, ...],
    sentence: str,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words(source, model_folder, tmp_path, *more)) == 2
    assert sentence in capsys.readouterr().err.replace("\n", " ")
