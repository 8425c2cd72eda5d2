"""The page and the tables of a run say what there is, also of rows that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from masactrl.batch.report import write_report
from masactrl.batch.results import RowResult, write_results
from masactrl.batch.rows import Row


@pytest.fixture
def results(tmp_path: Path) -> list[RowResult]:
    (tmp_path / "pictures/a-1").mkdir(parents=True)
    names = ("input", "target1-controlled", "target2-controlled")
    for name in names:
        Image.new("RGB", (32, 16), "red").save(tmp_path / f"pictures/a-1/{name}.png")
    row = Row(
        number=1,
        line=2,
        kind="edit",
        settings={"file_name": "/x/a.png", "to": ("a <b>dog</b>", "a fox"), "steps": 3},
        carried={"album": "x", "status": 5},
        shown="a.png",
    )
    other = Row(number=2, line=3, kind="edit", settings=row.settings, carried={"album": 1})
    done = RowResult(
        number=1,
        line=2,
        status="done",
        row=row,
        folder="pictures/a-1",
        pictures=names,
        figures={"kept_psnr": 12.5, "source_psnr": None},
        seconds=1.5,
    )
    failed = RowResult(number=2, line=3, status="failed", row=other, error="It died twice.")
    return [done, failed, RowResult(number=3, line=4, status="wrong", error="The line is no JSON.")]


def test_failures_come_first_and_words_are_no_tags(
    results: list[RowResult], tmp_path: Path
) -> None:
    page = write_report(tmp_path, results, title="m.jsonl").read_text()
    assert page.index('id="row-2"') < page.index('id="row-3"') < page.index('id="row-1"')
    assert "It died twice." in page
    assert "a &lt;b&gt;dog&lt;/b&gt;" in page
    assert "<b>dog" not in page
    assert page.count("data:image/jpeg;base64,") == 3
    assert "http" not in page.replace('href="http', "")  # holds everything itself


def test_the_tables_have_a_line_for_every_row_and_every_edited_picture(
    results: list[RowResult], tmp_path: Path
) -> None:
    write_results(tmp_path, results)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done", "failed", "wrong"]
    assert (rows[0]["album"], rows[0]["manifest_status"]) == ("x", 5)
    images = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [one["target_prompt"] for one in images] == ["a <b>dog</b>", "a fox"]
    assert all((tmp_path / one["file_name"]).exists() for one in images)
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra batch")
    table = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["album"] for row in table] == ['"x"', "1", None]  # of two kinds: as JSON


@pytest.mark.parametrize("odd", [{"a": {}}, [None], [[1]], 10**30, 1e308, True, "x", ["x"], 2**60])
def test_any_column_can_be_carried_into_parquet(tmp_path: Path, odd: object) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra batch")
    rows = [
        RowResult(
            number=number,
            line=number,
            status="open",
            row=Row(number=number, line=number, kind="edit", settings={}, carried=carried),
        )
        for number, carried in enumerate([{"odd": odd}, {"odd": 0.5}, {}], start=1)
    ]
    for some in (rows, rows[:1]):
        write_results(tmp_path, some)
        assert len(parquet.read_table(tmp_path / "results.parquet")) == len(some)


def test_it_loads_as_a_folder_of_pictures(results: list[RowResult], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="not an extra")
    write_results(tmp_path, results)
    write_report(tmp_path, results, title="m.jsonl")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / ".cache")
    )
    assert [one["target_prompt"] for one in loaded] == ["a <b>dog</b>", "a fox"]
    assert loaded[0]["image"].size == (32, 16)
