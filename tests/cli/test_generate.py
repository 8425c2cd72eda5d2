from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from masactrl import models
from masactrl.cli import main
from masactrl.pictures.images import read_recipe

pytestmark = pytest.mark.usefixtures("loaded_once")

NAMES = ["sheet", "source", "target1-controlled", "target1-uncontrolled"]


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    """A run of one second: the tiny model, two steps, 32 x 24 pixels."""
    words = ["generate", "a cat standing", "--to", "a cat running", "--model", str(model_folder)]
    words += ["--steps", "2", "--start-step", "1", "--size", "32x24", "--device", "cpu"]
    return [*words, "-o", str(tmp_path / "out")]


def test_pictures_are_made_and_their_places_printed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--seed", "5", "--cfg", "3", "--start-layer", "9"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    head, *paths = shown.out.splitlines()
    assert "32x24, 2 steps, guidance 3, S=1, L=9, seed 5" in head
    assert sorted(Path(path).stem for path in paths) == NAMES
    assert all(Path(path).is_file() for path in paths)
    with Image.open(tmp_path / "out" / "source.png") as image:
        assert image.size == (32, 24)


def test_json_alone_goes_to_standard_output(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["--to", "a dog", "--json", "--form", "union", "--strength", "0.5"]
    assert main([*words, "--negative", "a horse", "--dtype", "bfloat16"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    told = json.loads(shown.out)
    assert told["model"] == "tiny"
    assert told["dtype"] == "bfloat16"
    assert told["request"]["target_prompts"] == ["a cat running", "a dog"]
    assert told["request"]["negative_prompt"] == "a horse"
    assert (told["request"]["form"], told["request"]["strength"]) == ("union", 0.5)
    assert told["warnings"] == []
    assert len(told["pictures"]) == 6
    recipe = read_recipe(Path(told["pictures"]["target2-controlled"]))
    assert recipe is not None
    assert recipe["request"] == told["request"]


def test_existing_pictures_are_kept_unless_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sheet.png").write_text("precious")
    assert main(words) == 1
    assert "holds sheet.png already" in capsys.readouterr().err
    assert (tmp_path / "out" / "sheet.png").read_text() == "precious"
    assert main([*words, "--overwrite"]) == 0
    assert read_recipe(tmp_path / "out" / "sheet.png") is not None


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (["--to", " "], 2, "Target prompt 2 is empty"),
        (["--start-step", "-1"], 2, "accepted is 0 and more"),
        (["--strength", "1.5"], 2, "accepted is 0 to 1"),
        (["--cfg", "0.5"], 2, "accepted is 1 (no guidance) and more"),
        (["--start-step", "2"], 2, "0 to 1"),
        (["--start-layer", "16"], 2, "0 to 15"),
        (["--size", "30x24"], 2, "width=30 was given; accepted is 8 to 4096 in multiples of 8"),
        (["--model", "nothing"], 1, "There is no model 'nothing'; accepted are"),
        (["--model", "old.ckpt"], 2, "pickle checkpoint"),
        (["--device", "cuda:99"], 2, "this machine has no device 'cuda:99'"),
        (["--dtype", "float16"], 2, "float16 does not run on the CPU"),
        (["--seed", str(2**63)], 2, "seed=9223372036854775808 was given; accepted is 0 to"),
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


def test_a_size_that_is_none_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--size", "big"]) == 2
    assert "'big' is no size" in capsys.readouterr().err


def test_unknown_words_are_named_with_some_that_the_model_knows(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = models.load_pipeline
    monkeypatch.setattr(
        models,
        "load_pipeline",
        lambda *args, **options: dataclasses.replace(load(*args, **options), family="puppets"),
    )
    words[1] = "a hors standing in the snow"
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert shown.startswith('Warning: The embedded model does not know "hors"')
    for known in ("words that it knows are horse", "cat, dog", "standing", "meadow"):
        assert known in shown


def test_a_prompt_that_is_cut_is_a_warning(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words[1] = "cat " * 75 + "red beach"
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("Warning: The prompt is longer than the model's 77 tokens")
    assert "'red beach'" in shown
    assert len(shown.splitlines()) == 1
