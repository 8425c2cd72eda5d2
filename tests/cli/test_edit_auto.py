from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from masactrl.cli import main
from masactrl.studies import scoring
from masactrl.studies.scoring import Score, Trial

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("loaded_once")


class Last:
    """Likes the last candidate best."""

    def score(self, trial: Trial) -> tuple[Score, ...]:
        return tuple(Score(edit=k / 10, subject=1) for k in range(len(trial.candidates)))


@pytest.fixture
def words(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(scoring, "load_scorer", lambda model, clip, dino: Last())
    pixels = np.random.default_rng(0).integers(0, 255, (44, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["edit", str(tmp_path / "photo.png"), "--to", "a cat running"]
    words += ["--model", str(model_folder), "--device", "cpu", "--steps", "2"]
    return [*words, "-o", str(tmp_path / "out")]


def test_the_choice_is_told_and_made_again(
    words: list[str], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--auto", "--no-compare"]) == 0
    shown = capsys.readouterr().out
    assert "S=0, L=12" in shown
    assert "S=0, L=12 scored best of 3" in shown
    given = ["--model", str(model_folder), "--input", str(tmp_path / "photo.png")]
    for name in ("target1-controlled", "auto"):
        assert main(["rerun", str(tmp_path / "out" / f"{name}.png"), *given]) == 0
        assert capsys.readouterr().out == "The picture is the same to the bit.\n"
    assert main(["info", str(tmp_path / "out" / "auto.png"), "--cli"]) == 0
    line = shlex.split(capsys.readouterr().out)
    assert line[:3] == ["masactrl", "edit", "photo.png"]
    assert {"--auto", "--no-compare"} <= set(line)
    assert not {"--start-step", "--start-layer"} & set(line)
    assert main([*words, "--auto", "--json", "--overwrite"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["auto"]["chosen"] == {"start_step": 0, "start_layer": 12}
    assert told["request"]["start_layer"] == 12
    assert main([*words, "--auto", "--plan"]) == 0
    assert "choosing S and L first tries 3 cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--auto", "--start-step", "1"], "auto chooses both"),
        (["--auto", "--mode", "joint"], "mode='joint'"),
        (["--judge-clip", "some/clip"], "belong to --auto"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert sentence in shown.err
