"""The comparison on a photograph: every method from one inversion, by Python and by words."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from editing_parts import MASKS, random_picture

from masactrl.cli import main
from masactrl.errors import ConfigError, PromptError
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.studies.compare import COMPARED, compare, compared_calls, comparison_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession

REQUEST = EditRequest(target_prompts=("a dog",))


@pytest.fixture
def session(model: LoadedModel) -> EditSession:
    return invert(model, random_picture(), InversionRequest(steps=2))


def test_every_method_has_a_column(model: LoadedModel) -> None:
    worded = invert(model, random_picture(), InversionRequest(source_prompt="a cat", steps=3))
    seen: list[int] = []
    options: dict[str, Any] = {"unified": {"rigid": 0.4}, "sdedit": {"strength": 0.7}}
    calls = compared_calls(worded.plan, REQUEST, options=options)
    result = compare(worded, REQUEST, options=options, on_step=lambda one: seen.append(one.step))
    methods = [column.method for column in result.columns]
    assert methods == ["source", "reconstruction", "fixed-seed", *COMPARED]
    assert len({column.image.tobytes() for column in result.columns}) == len(methods)
    assert all(column.image.size == (61, 48) for column in result.columns)
    assert all((column.seconds or 0) > 0 for column in result.columns[2:])
    assert "dB" in result.columns[1].note
    assert result.left_out == ()
    assert len(seen) == calls
    assert result.to_sheet().width > len(methods) * 61
    single = worded.edit(EditRequest(target_prompts=("a dog",)), method="plug-and-play")
    column = result.columns[methods.index("plug-and-play")]
    assert column.image.tobytes() == single.targets[0].controlled.tobytes()


def test_without_a_prompt_methods_of_words_are_left_out(session: EditSession) -> None:
    result = compare(session, REQUEST)
    methods = [column.method for column in result.columns]
    assert methods[2:] == ["fixed-seed", "masactrl", "plug-and-play", "sdedit"]
    assert [name for name, _ in result.left_out] == ["prompt-to-prompt", "unified"]
    assert "--from" in result.left_out[0][1]
    recipe = comparison_recipe(session, REQUEST)
    assert recipe.request["methods"] == ["masactrl", "plug-and-play", "sdedit"]
    with pytest.raises(PromptError, match="--from"):
        compare(session, REQUEST, methods=("prompt-to-prompt",))
    with pytest.raises(ConfigError, match="2 were given"):
        compare(session, EditRequest(target_prompts=("a", "b")))
    with pytest.raises(ConfigError, match="'unified', which is not compared"):
        compare(session, REQUEST, methods=("sdedit",), options={"unified": {}})
    with pytest.raises(ConfigError, match="no option 'power'"):
        compare(session, REQUEST, methods=("sdedit",), options={"sdedit": {"power": 1}})
    masked = EditRequest(target_prompts=("a dog",), masks=MASKS)
    assert len(compare(session, masked, methods=("masactrl",)).columns) == 4


def test_what_is_made_when_it_is_stopped_compares_something(session: EditSession) -> None:
    result = compare(session, REQUEST, methods=("masactrl", "sdedit"), stop=lambda: True)
    assert [one.method for one in result.columns][2:] == ["fixed-seed", "masactrl"]
    assert (result.methods(), result.unmade) == (("masactrl",), ("sdedit",))
    assert "source" not in result.prompts(), "nobody said what it shows"
    assert result.prompts()["masactrl"] == "a dog"


def test_the_command_line(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_picture().save(tmp_path / "photo.png")
    words = ["compare", str(tmp_path / "photo.png"), "--to", "a dog", "--device", "cpu"]
    words += ["--model", str(model_folder), "--steps", "2", "--seed", "4"]
    methods = ["--method", "masactrl", "--method", "sdedit", "--start-step", "1"]
    methods += ["--method-option", "sdedit.strength=0.5"]
    assert main([*words, *methods, "-o", str(tmp_path / "a"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    columns = ["source", "reconstruction", "fixed-seed", "masactrl", "sdedit"]
    assert [one["method"] for one in told["columns"]] == columns
    assert told["inversion_seconds"] > 0
    path = tmp_path / "a" / "sdedit.png"
    given = ["--model", str(model_folder), "--input", str(tmp_path / "photo.png")]
    assert main(["rerun", str(path), *given]) == 0
    assert capsys.readouterr().out == "The picture is the same to the bit.\n"
    assert main(["info", str(path), "--cli"]) == 0
    line = shlex.split(capsys.readouterr().out)[1:]
    assert line[:2] == ["compare", "photo.png"]
    where = {"tiny": str(model_folder), "photo.png": str(tmp_path / "photo.png")}
    assert main([where.get(word, word) for word in line] + ["-o", str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert "once for all" in shown
    assert "SDEdit" in shown
    for name in ("comparison", "masactrl", "sdedit", "reconstruction"):
        made = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in "ab"]
        assert made[0] == made[1]
    for change, sentence in (
        (["--size", "32x32"], "it has its own"),
        (["--method", "magic"], "method='magic'"),
        (["--start-step", "9"], "0 to 1"),
    ):
        assert main([*words, *change, "-o", str(tmp_path / "c")]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.png"), "--to", "a dog"]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert main(["compare", "a cat", "--to", "a dog", "--from", "a cat"]) == 2
    assert "--from belongs to a picture" in capsys.readouterr().err
