"""Manifests: columns become requests, wrong rows are named by their line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masactrl.batch.manifest import WrongRows, read_manifest
from masactrl.batch.rows import Row, names_of
from masactrl.errors import ConfigError
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.request import GenerateRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "mask.png"):
        picture = Image.new("L", (16, 16))
        picture.paste(255, (4, 4, 12, 12))
        picture.save(tmp_path / name)
    return tmp_path


def one(folder: Path, **columns: Any) -> Row:
    path = folder / "one.jsonl"
    path.write_text(json.dumps(columns))
    found = read_manifest(path)
    assert not found.wrong, found.wrong
    return found.rows[0]


def test_a_row_becomes_the_requests_of_the_command_line(folder: Path) -> None:
    row = one(
        folder,
        file_name="a.png",
        source_prompt="a cat",
        target_prompt=["a dog", "a fox"],
        steps=5,
        cfg=3,
        inversion="edit-friendly",
        seed=7,
        mask="mask.png",
        compare=False,
        album="x",
    )
    asked = row.asked()
    assert asked.picture == folder / "a.png"
    assert asked.inversion is not None
    inversion, request = asked.inversion, asked.request
    assert isinstance(request, EditRequest)
    told = inversion.source_prompt, inversion.method, inversion.steps, inversion.seed
    assert told == ("a cat", "edit-friendly", 5, 7)
    assert request.target_prompts == ("a dog", "a fox")
    assert (request.guidance_scale, request.seed, request.compare) == (3, None, False)
    assert request.masks is not None
    assert request.masks.stated[0].name == "mask.png"
    assert row.carried == {"album": "x"}
    assert row.files == (folder / "a.png", folder / "mask.png")


def test_without_a_picture_it_is_made_from_prompts(folder: Path) -> None:
    row = one(
        folder,
        source_prompt="a cat",
        target_prompt="a dog",
        size="24x16",
        method="sdedit",
        method_option={"strength": 0.5},
    )
    request = row.asked().request
    assert isinstance(request, GenerateRequest)
    assert (request.width, request.height) == (24, 16)
    assert request.method_options == (("strength", 0.5),)


def test_every_setting_of_a_request_has_a_name(folder: Path) -> None:
    for kind, names in (
        ("edit", "guidance_scale source_cfg from fit mask_word layout keep"),
        ("generate", "guidance_scale height negative start_step layout_until"),
    ):
        assert {*names.split()} <= names_of(kind).keys()  # type: ignore[arg-type]


def test_csv_says_the_same_as_json(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text(
        "file_name,target_prompt,steps,compare,start-layer,note\n"
        'a.png,"[""a dog"", ""a fox""]",5,no,3,"two\nlines"\n'
        "a.png,(a dog:1.2),,,,\n"
    )
    first, second = read_manifest(path).rows
    request = first.asked().request
    assert isinstance(request, EditRequest)
    assert request.target_prompts == ("a dog", "a fox")
    assert (request.compare, request.start_layer) == (False, 3)
    assert first.carried == {"note": "two\nlines"}
    assert (first.line, second.line) == (2, 4)
    assert second.settings.keys() == {"file_name", "to"}


def test_parquet_says_the_same(folder: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra batch")
    from pyarrow import parquet

    rows = [{"file_name": "a.png", "target_prompt": ["a dog"], "steps": 4}, {"file_name": "a.png"}]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "m.parquet")
    found = read_manifest(folder / "m.parquet")
    assert found.rows[0].settings["steps"] == 4
    assert "no target_prompt" in found.wrong[0].reason


WRONG = (
    ('{"file_name": "b.png", "target_prompt": "x"}', "no file"),
    ('{"file_name": "m.jsonl", "target_prompt": "x"}', "cannot be read as a picture"),
    ("{", "no JSON"),
    ("[1]", "no JSON object"),
    ('{"target_prompt": "x"}', "neither file_name nor source_prompt"),
    ('{"file_name": "a.png"}', "no target_prompt"),
    ('{"file_name": "a.png", "target_prompt": " "}', "is empty"),
    ('{"file_name": "a.png", "target_prompt": "x", "steps": "many"}', "whole numbers"),
    ('{"file_name": "a.png", "target_prompt": "x", "steps": 0}', "1 to 1000"),
    ('{"file_name": "a.png", "target_prompt": "x", "seed": 3}', "seed belongs to"),
    ('{"file_name": "a.png", "target_prompt": "x", "from": "a", "source_prompt": "b"}', "twice"),
    ('{"file_name": "a.png", "target_prompt": "x", "steps": 1, "steps": 2}', "twice"),
    ('{"file_name": "a.png", "target_prompt": 5}', "a text or a list"),
    ('{"file_name": "a.png", "target_prompt": "x", "mask": "b.png"}', "no file"),
    ('{"file_name": "a.png", "target_prompt": "\\ud800"}', "cannot be written"),
    ('{"file_name": "a.png", "target_prompt": "x", "note": NaN, "method": "magic"}', "accepted"),
    ('{"source_prompt": "a", "target_prompt": "x", "size": "big"}', "width x height"),
    ('{"file_name": "~no-such-user/x.png", "target_prompt": "x"}', "no file"),
)


def test_every_wrong_row_is_named_by_its_line(folder: Path) -> None:
    good = '{"file_name": "a.png", "target_prompt": "x"}'
    lines = [good, *(line for line, _ in WRONG), "", good]
    (folder / "m.jsonl").write_text("\n".join(lines))
    found = read_manifest(folder / "m.jsonl")
    assert [row.line for row in found.rows] == [1, len(lines)]
    assert [one.line for one in found.wrong] == [*range(2, 2 + len(WRONG))]
    for one, (_, reason) in zip(found.wrong, WRONG, strict=True):
        assert reason in one.reason, one
    assert "line 2: There is no file" in str(WrongRows("m.jsonl", found.wrong))


def test_settings_of_all_rows_stand_behind_the_rows_own(folder: Path) -> None:
    rows = [{"file_name": str(folder / "a.png"), "target_prompt": "x", "steps": 3}]
    rows += [{"source_prompt": "a", "target_prompt": "x"}]
    found = read_manifest(rows, {"steps": 9, "start-layer": 4, "size": "16x16"})
    assert [row.settings["steps"] for row in found.rows] == [3, 9]
    assert "size" not in found.rows[0].settings  # a picture has one
    with pytest.raises(ConfigError, match="did you mean steps"):
        read_manifest(rows, {"stepz": 9})


def test_a_column_that_is_nearly_a_setting_is_told(folder: Path) -> None:
    rows = [{"source_prompt": "a", "target_prompt": "x", "start_stpe": 3, "album": 1}]
    (hint,) = read_manifest(rows).hints
    assert "start_stpe" in hint
    assert "did you mean start_step?" in hint
    rows[0] = {"source_prompt": "a", "target_prompt": "x", "mask": "m.png", "lora": "x"}
    of_edits, of_all = read_manifest(rows).hints
    assert "'mask' is a setting of edits, not of pictures from prompts" in of_edits
    assert "'lora' is no setting of a row" in of_all
    with pytest.raises(ConfigError, match="mask is a setting of edits, and there are none"):
        read_manifest(rows, {"mask": "m.png"})


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("m.txt", "x", "no manifest"),
        ("m.jsonl", "\n", "has no row"),
        ("m.csv", "a,a\n1,2\n", "each once"),
        ("none.jsonl", None, "no file"),
    ],
)
def test_files_that_are_no_manifest(folder: Path, name: str, text: str, match: str) -> None:
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_manifest(folder / name)
