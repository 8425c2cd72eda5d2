"""The PIE-Bench runner, end to end on a data set of the test's own, with tiny random networks."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from pie_parts import picture
from PIL import Image

pytest.importorskip("torchmetrics")

from masactrl.batch.pie_data import read_pie
from masactrl.bench import pie_metrics
from masactrl.bench.pie_editors import pie_editors
from masactrl.bench.pie_run import Scored, cropped, run_pie
from masactrl.bench.pie_table import PUBLISHED, table_text
from masactrl.cli import main
from masactrl.errors import ConfigError, MasaCtrlError

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.bench.pie_metrics import PieMetrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_end_to_end_with_resuming(folder: Path, metrics: PieMetrics, tmp_path: Path) -> None:
    data, out, made = read_pie(folder), tmp_path / "out", []

    def editor(item: Any, source: Image.Image) -> Image.Image:
        made.append(item.key)
        if item.key.endswith("2") and len(made) < 4:
            raise MasaCtrlError("the words cannot be aligned")
        return Image.eval(source, lambda value: 255 - value)

    editors = {"inverted": editor, **pie_editors(None, ["nothing"])}
    first = run_pie(data, editors, metrics, out)
    assert first.done == 5
    reasons = [problem.reason for problem in first.problems]
    assert "inverted: the words cannot be aligned" in reasons
    assert len(reasons) == len(data.problems) + 1
    assert len(made) == 3

    # Cut the last line short, as a stop does; only what is missing is done again.
    lines = (out / "items.jsonl").read_text().splitlines()
    (out / "items.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    second = run_pie(data, editors, metrics, out)
    assert second.done == 6
    assert len(made) == 4
    assert len(second.problems) == len(data.problems)

    rows = {(row.label, row.type_id): row for row in second.table}
    assert set(rows) == {(n, t) for n in ("inverted", "nothing") for t in (None, "5", "8")}
    whole = rows["inverted", None]
    assert whole.items == 3
    assert whole.counts["psnr_unedit_part"] == 2  # the whole-image mask is left out
    assert whole.counts["structure_distance"] == 3
    assert math.isnan(rows["inverted", "8"].values["psnr_unedit_part"])
    with (out / "items.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    by_key = {(row["file_id"], row["label"]): row for row in table}
    assert by_key["000000000001", "inverted"]["mse_unedit_part"] == "nan"
    text = second.table_path.read_text()
    assert "type 5 (change pose)" in text
    assert all(row.label in text for row in PUBLISHED)
    assert text == table_text(second.table)
    if importlib.util.find_spec("matplotlib"):
        assert [path.name for path in second.plots] == ["preservation.png", "preservation.svg"]
        assert all(path.stat().st_size > 0 for path in second.plots)
    kept = out / "inverted" / "annotation_images" / "5_pose" / "000000000000.jpg"
    with Image.open(kept) as image:
        assert (image.format, image.size) == ("JPEG", (512, 512))

    scored = run_pie(data, {"x": Scored(kept.parent.parent)}, metrics, tmp_path / "other")
    assert scored.done == 3
    with pytest.raises(ConfigError, match="another"):
        run_pie(data, editors, metrics, out, settings={"benchmark": "pie-2"})


def test_two_workers_find_what_one_finds(folder: Path, metrics: PieMetrics, tmp_path: Path) -> None:
    data, editors = read_pie(folder), dict(pie_editors(None, ["nothing"]))
    made = tmp_path / "made" / "5_pose"
    made.mkdir(parents=True)
    picture(7).save(made / "000000000000.jpg")
    editors["theirs"] = Scored(made.parent)
    tables = []
    for workers in (1, 2):
        outcome = run_pie(data, editors, metrics, tmp_path / f"{workers}", workers=workers)
        assert outcome.done == 4  # the others of theirs are missing, and say so
        assert sum("is missing in" in one.reason for one in outcome.problems) == 2
        tables.append(outcome.table)
    assert repr(tables[0]) == repr(tables[1])  # NaN is not equal to itself
    with pytest.raises(ConfigError, match="workers=0"):
        run_pie(data, editors, metrics, tmp_path / "0", workers=0)


def test_strips_are_cropped_to_the_last_square() -> None:
    strip = Image.new("RGB", (4 * 512, 512))
    strip.paste(picture(3), (3 * 512, 0))
    assert cropped(strip).tobytes() == picture(3).tobytes()
    with pytest.raises(MasaCtrlError, match="64 x 64 was found"):
        cropped(Image.new("RGB", (64, 64)))


def test_the_command_counts_what_failed_and_says_so_in_its_exit_code(
    folder: Path,
    metrics: PieMetrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pie_metrics, "load_pie_metrics", lambda _device: metrics)
    words = ["bench", "pie", str(folder), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "3 scored, 8 left out" in shown.err
    assert "000000000003: the picture 5_pose/none.jpg is missing" in shown.err
    assert "DDIM + MasaCtrl" in shown.out
    mapping = json.loads((folder / "mapping_file.json").read_text())
    good = {key: entry for key, entry in mapping.items() if key[-2:] in ("00", "01", "02")}
    (folder / "mapping_file.json").write_text(json.dumps(good))
    assert main(words) == 0
    assert "3 scored, 0 left out" in capsys.readouterr().err
    (folder / "mapping_file.json").write_text("{")
    assert main(words) == 2
    assert "is no JSON" in capsys.readouterr().err
