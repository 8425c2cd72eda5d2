from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from masactrl.cli import edit as command
from masactrl.cli import main
from masactrl.pictures.images import read_recipe

pytestmark = pytest.mark.usefixtures("loaded_once")

NAMES = ["input", "reconstruction", "sheet", "target1-controlled", "target1-uncontrolled"]


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    """A run of two seconds: the tiny model, two steps, 60 x 44 pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (44, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["edit", str(tmp_path / "photo.png"), "--to", "a cat running"]
    words += ["--model", str(model_folder), "--device", "cpu", "--steps", "2", "--start-step", "1"]
    return [*words, "-o", str(tmp_path / "out")]


def test_pictures_are_made_and_their_places_printed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--cfg", "3", "--start-layer", "9"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    head, quality, *paths = shown.out.splitlines()
    assert "60x44, direct inversion, 2 steps, guidance 3, S=1, L=9" in head
    assert "the picture came back with" in quality
    assert sorted(Path(path).stem for path in paths) == NAMES
    recipe = read_recipe(tmp_path / "out" / "target1-controlled.png")
    assert recipe is not None
    assert recipe["inputs"][0]["name"] == "photo.png"


def test_a_session_is_written_and_read(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "photo.safetensors"
    words += ["--session", str(file), "--json", "--no-compare", "--overwrite"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["passes"]["invert"] == 2
    assert file.is_file()
    assert main([*words, "--mode", "joint"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["passes"]["invert"] == 0
    assert again["request"]["mode"] == "joint"
    assert main([*words, "--inversion", "ddim"]) == 2
    assert "was inverted with method 'direct'" in capsys.readouterr().err
    Image.new("RGB", (60, 44)).save(tmp_path / "photo.png")
    assert main(words) == 2
    assert "is of another picture" in capsys.readouterr().err


def test_masks_from_files_and_words(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((44, 60), dtype=np.uint8)
    mask[:, :30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = ["--mask-file", str(tmp_path / "mask.png"), "--keep-background", "--json"]
    assert main([*words, *masked]) == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    assert {"mask", "target1-mask"} <= pictures.keys()
    assert main([*words, "--overwrite", *masked, "--mask-word", "cat"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_plan_runs_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--plan"]) == 0
    assert "times plain generation" in capsys.readouterr().out
    assert main([*words, "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inversion"] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (["--to", " "], 2, "Target prompt 2 is empty"),
        (["--start-step", "2"], 2, "0 to 1"),
        (["--start-layer", "16"], 2, "0 to 15"),
        (["--seed", "1"], 2, "direct has no use for it"),
        (["--keep-background"], 2, "keep_background needs masks"),
        (["--pixel-limit", "100"], 2, "more than the limit of 100"),
        (["--mask-file", "none.png"], 2, "There is no file none.png"),
        (["--mask-threshold", "0.3"], 2, "--mask-threshold belongs to --mask-word"),
        (["--target-mask-file", "none.png"], 2, "There is no file none.png"),
        (["--session", "no/folder/a.safetensors"], 1, "there is no folder no/folder"),
        (["--model", "old.bin"], 2, "--allow-pickle"),
        (["-o", "/dev/null/out"], 1, "/dev/null/out cannot be written to"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str],
    change: list[str],
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*words, *change]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert len(shown.err.splitlines()) == 1
    assert sentence.lower() in shown.err.lower()


def test_an_interrupt_finishes_the_edit_and_keeps_it(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = command.run_edit

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return run(*args, **kwargs)

    monkeypatch.setattr(command, "run_edit", interrupted)
    assert main(words) == 130
    assert "Interrupted: the edit was finished first" in capsys.readouterr().err
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_the_choices_are_those_of_the_package() -> None:
    from masactrl.inversion import INVERSIONS
    from masactrl.methods import METHODS
    from masactrl.settings.shared import InversionName, MethodName

    assert get_args(InversionName) == tuple(INVERSIONS)
    assert get_args(MethodName) == tuple(METHODS)


def test_the_defaults_that_are_shown_are_those_of_the_package() -> None:
    from masactrl.cli import edit_options as options
    from masactrl.inversion import INVERSIONS
    from masactrl.pictures.input import PIXEL_LIMIT
    from masactrl.runs.edit_request import EditMasks
    from masactrl.runs.inversion_request import InversionRequest
    from masactrl.runs.mask_words import MaskWords
    from masactrl.settings.declare import settings_of
    from masactrl.studies import scoring

    def shown(option: Any) -> str:
        (one,) = (part for part in option.__metadata__ if hasattr(part, "show_default"))
        return str(one.show_default)

    assert shown(options.JudgeClipOption) == scoring.CLIP
    assert shown(options.JudgeDinoOption) == scoring.DINO
    threshold = settings_of(MaskWords)["mask_threshold"].setting.usual
    assert threshold == str(EditMasks(source="a", targets="a").threshold)
    assert shown(options.PixelOption) == f"{PIXEL_LIMIT // 10**6} million"
    rounds = [INVERSIONS[name]().iterations for name in ("fixed-point", "null-text")]
    declared = settings_of(InversionRequest)
    assert declared["iterations"].setting.usual == f"{rounds[0]}; null-text: {rounds[1]}"
    assert declared["fresh_steps"].setting.usual == str(INVERSIONS["direct"]().fresh_steps)
