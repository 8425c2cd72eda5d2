"""PuppetBench's rendered half: sources drawn, inverted, edited by every column, judged exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")

from masactrl.bench.puppet_report import summarise, write_report
from masactrl.bench.puppet_run import RIGHT, Column, PuppetSettings, picture_path, run_puppets
from masactrl.bench.puppet_tasks import halves_of
from masactrl.errors import ConfigError
from masactrl.puppets.inspector import Inspector

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

COLUMNS = (
    Column(method="masactrl", options={"start_step": 1, "start_layer": 8}),
    Column(method="prompt-to-prompt", options={"cross": 0.6, "self_attention": 0.5}),
    Column(method="sdedit", options={"strength": 0.5}),
    Column.written("masactrl:start_step=1,start_layer=8,fresh_noise=0.5"),
)


def settings(**changes: Any) -> PuppetSettings:
    values: dict[str, Any] = {"columns": COLUMNS, "steps": 2, "seeds": 2, "batch": 3, "pictures": 1}
    return PuppetSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    torch.manual_seed(0)
    return Inspector().requires_grad_(False).eval()


def test_both_halves_of_a_split() -> None:
    tasks = halves_of("tuning", "both", limit=2)
    assert [task.half for task in tasks] == ["synthesised"] * 2 + ["rendered"] * 2
    assert halves_of("tuning", "rendered", limit=2) == tasks[2:]
    with pytest.raises(ConfigError, match="half='real'"):
        halves_of("tuning", "real")


def test_run_resume_and_report(model: LoadedModel, inspector: Inspector, tmp_path: Path) -> None:
    tasks = halves_of("tuning", "both", limit=1)
    drawn = tasks[1]
    seen: list[tuple[int, int]] = []
    ledger = run_puppets(
        model, inspector, tasks, settings(), tmp_path, on_progress=lambda *done: seen.append(done)
    )
    assert seen == [(2, 4), (4, 4)]
    rows = {(row["task"], row["seed"], row["column"]): row for row in ledger}
    assert not [row for row in rows.values() if "error" in row]
    labels = [column.label for column in COLUMNS]
    mine = [key[1:] for key in rows if key[0] == drawn.key]
    # What draws no noise of its own is one picture, whatever the seed.
    drawing = ["prompt-only", *labels[2:]]
    assert labels[3] == "masactrl (fresh_noise=0.5, start_layer=8, start_step=1)"
    assert (tasks[0].key, 0, labels[3]) not in rows, "new noise is for sources that are inverted"
    once = ["nothing", "fixed-seed", RIGHT, *labels[:2]]
    assert sorted(mine) == sorted(
        [(0, label) for label in (*once, *drawing)] + [(1, label) for label in drawing]
    )
    figures = {label: rows[drawn.key, 0, label]["figures"] for label in (*once, *drawing)}
    assert figures["nothing"]["background"] == 60
    assert figures["nothing"]["distance"] > 0
    # All rows are judged against right answers; the exact one has lost what the VAE loses.
    assert all(one["distance"] is not None for one in figures.values())
    assert rows[drawn.key, 0, labels[2]]["figures"] != rows[drawn.key, 1, labels[2]]["figures"]
    synthesised = rows[tasks[0].key, 1, "fixed-seed"]["figures"]
    assert synthesised["distance"] is None

    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["column"] != labels[1]]
    (tmp_path / "items.jsonl").write_text("".join(f"{line}\n" for line in kept))
    again = run_puppets(model, inspector, tasks, settings(), tmp_path)
    assert {key: row["figures"] for key, row in rows.items()} == {
        (row["task"], row["seed"], row["column"]): row["figures"] for row in again
    }
    assert picture_path(tmp_path, drawn.key, 0, RIGHT).exists()
    assert not picture_path(tmp_path, drawn.key, 1, labels[2]).exists()

    names = {path.name for path in write_report(list(again), tmp_path, title="both")}
    assert {"sheet.png", "sheet-rendered.png"} <= names
    text = (tmp_path / "report.md").read_text()
    assert text.index("## Sources synthesised") < text.index("## Sources rendered")
    summary = {one.column: one for one in summarise(list(again))}
    assert summary[RIGHT].figures["distance"] is not None
    with pytest.raises(ConfigError, match="another inversion"):
        run_puppets(model, inspector, tasks, settings(inversion="ddim"), tmp_path)


def test_an_item_that_fails_does_not_stop_the_others(
    model: LoadedModel, inspector: Inspector, tmp_path: Path
) -> None:
    broken = Column(method="plug-and-play", options={"block": "up_blocks.7.resnets.1"})
    tasks = halves_of("tuning", "rendered", limit=1)
    asked = settings(columns=(broken,), seeds=1)
    ledger = run_puppets(model, inspector, tasks, asked, tmp_path)
    failed = [row for row in ledger if "error" in row]
    assert [row["column"] for row in failed] == [broken.label]
    assert "no residual block" in failed[0]["error"]
    paths = write_report(list(ledger), tmp_path, title="t")
    assert "1 failed" in paths[0].read_text()
    assert any(path.name == "sheet-rendered.png" for path in paths)  # with a gap
    wrong = Column(method="masactrl", options={"on_untouched": "warn"})
    with pytest.raises(ConfigError, match="no option 'on_untouched' on pictures"):
        run_puppets(model, inspector, tasks, settings(columns=(wrong,)), tmp_path / "b")
    made = halves_of("tuning", "synthesised", limit=1)
    with pytest.raises(ConfigError, match="no source is inverted; ask for --half rendered"):
        run_puppets(model, inspector, made, settings(), tmp_path / "c")
    with pytest.raises(ConfigError, match="fresh_noise=half"):
        Column.written("masactrl:fresh_noise=half")
    with pytest.raises(ConfigError, match="inversion='magic'"):
        settings(inversion="magic")
