"""PuppetBench: its tasks, its judgement of right and wrong answers, its run and its report."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")

from masactrl.bench.puppet_figures import CANDIDATES, judge, right_answers
from masactrl.bench.puppet_report import summarise, write_report
from masactrl.bench.puppet_run import BASELINES, Column, PuppetSettings, run_puppets
from masactrl.bench.puppet_tasks import KINDS, TASKS, puppet_tasks
from masactrl.bench.statistics import bootstrap
from masactrl.errors import ConfigError, MasaCtrlError
from masactrl.puppets.identity import SAME
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.judging import JudgedBatch
from masactrl.puppets.renderer import render

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

SIZE = 128


def test_the_set_is_fixed_and_mixed() -> None:
    parts = {
        (split, half): puppet_tasks(split, half)
        for split in ("tuning", "reporting")
        for half in ("synthesised", "rendered")
    }
    assert sum(map(len, parts.values())) == TASKS >= 500
    assert all(len(parts["tuning", half]) >= 90 for half in ("synthesised", "rendered"))
    keys = [task.key for tasks in parts.values() for task in tasks]
    assert len(set(keys)) == TASKS
    seeds = {t.noise_seed + k for tasks in parts.values() for t in tasks for k in range(32)}
    assert len(seeds) == 32 * TASKS
    for tasks in parts.values():
        counts = Counter(task.kind for task in tasks[:24])
        assert counts == {"action": 12, "facing": 4, "look back": 4, "close-up": 4}
    first = parts["reporting", "synthesised"][0]
    assert first.key == "s012-action"  # published figures are of this very set
    assert (first.source_prompt, first.target_prompt) == FIRST
    assert puppet_tasks("tuning", "rendered", limit=3, kinds=["facing"])[2].kind == "facing"
    told = "".join(repr(task) for tasks in parts.values() for task in tasks)
    assert sha256(told.encode()).hexdigest() == SET


SET = "7141e4e00dc218c5e1e815ae20eeea0170f826f9c82b61a93412a8469edab136"  # never change it

FIRST = ("a fox rearing in the city, facing right", "a fox grazing in the city, facing right")


def test_targets_differ_in_what_is_asked_alone() -> None:
    for task in puppet_tasks("reporting", "rendered"):
        source, target = task.source, task.target
        assert source.identity == target.identity
        assert source.backdrop == target.backdrop
        assert source.camera.shot == "full body"
        differs = {
            "action": source.pose.action != target.pose.action,
            "facing": source.pose.facing != target.pose.facing,
            "look back": target.pose.action == "looking back" != source.pose.action,
            "close-up": target.camera.shot == "close-up",
        }
        assert differs[task.kind]
        assert differs["facing"] == (task.kind == "facing")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("all", "rendered"), "split='all'"),
        (("tuning", "real"), "half='real'"),
    ],
)
def test_unknown_parts(values: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        puppet_tasks(*values)
    with pytest.raises(ConfigError, match="limit=0"):
        puppet_tasks("tuning", "rendered", limit=0)


def test_right_answers_pass_and_wrong_ones_do_not() -> None:
    """The source rendered: its right answer, doing nothing, and another animal."""
    inspector = Inspector.load()
    tasks = puppet_tasks("tuning", "rendered", limit=6)
    answers = [right_answers(task, SIZE) for task in tasks]
    assert all(len(one.image) == CANDIDATES for one in answers)
    sources = render([task.source for task in tasks], SIZE)
    source = JudgedBatch.of(sources.image, inspector)

    def figures(pictures: torch.Tensor) -> Any:
        shot = JudgedBatch.of(pictures, inspector)
        return judge(tasks, source, shot, answers, source_masks=sources.mask)

    right = figures(torch.stack([one.image[5] for one in answers]))
    nothing = figures(sources.image)
    others = tasks[1:] + tasks[:1]
    wrong = figures(render([task.target for task in others], SIZE).image)

    def mean(found: Any, name: str) -> float:
        values = [getattr(one, name) for one in found if getattr(one, name) is not None]
        return sum(values) / len(values)

    assert mean(right, "passed") >= 0.8
    assert mean(right, "asked") >= 0.9
    assert mean(right, "distance") < 1e-4
    assert mean(right, "identity") < SAME
    assert mean(nothing, "passed") == 0
    assert mean(nothing, "background") == 60
    assert mean(nothing, "similarity") == pytest.approx(1, abs=1e-3)
    assert mean(wrong, "passed") == 0
    assert mean(wrong, "identity") > 3 * mean(right, "identity")
    assert mean(wrong, "distance") > 0.1
    assert all(
        (one.background is None) == (t.kind == "close-up")
        for one, t in zip(right, tasks, strict=True)
    )


def test_bootstrap() -> None:
    assert bootstrap([]) is None
    flat = bootstrap([[1.0, 1.0], [1.0]])
    assert flat is not None
    assert (flat.mean, flat.low, flat.high, flat.count) == (1, 1, 1, 2)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator).double()
    found = bootstrap([[float(v)] for v in values])
    assert found is not None
    half = 1.96 * float(values.std()) / 20  # the normal approximation
    assert found.low == pytest.approx(found.mean - half, abs=0.02)
    assert found.high == pytest.approx(found.mean + half, abs=0.02)


@pytest.fixture
def settings() -> PuppetSettings:
    return PuppetSettings(
        columns=(
            Column(method="masactrl", options={"start_step": 1, "start_layer": 8}),
            Column(method="sdedit", options={"strength": 0.5}),
        ),
        steps=2,
        seeds=2,
        batch=3,
        pictures=2,
    )


def test_run_resume_and_report(
    model: LoadedModel, settings: PuppetSettings, tmp_path: Path
) -> None:
    inspector = Inspector()
    tasks = puppet_tasks("tuning", "synthesised", limit=2)
    seen: list[tuple[int, int]] = []
    run_puppets(
        model, inspector, tasks, settings, tmp_path, on_progress=lambda *done: seen.append(done)
    )
    assert seen == [(3, 4), (4, 4)]
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    labels = [*BASELINES, *(column.label for column in settings.columns)]
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 4 * len(labels)
    assert {row["column"] for row in rows} == set(labels)

    # A row is lost to a stop: that column is run again for its batch, the others are not.
    (tmp_path / "items.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:10])
    ledger = run_puppets(model, inspector, tasks, settings, tmp_path)
    again = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(again) == len(rows)
    assert again[-1]["figures"] == rows[-1]["figures"]

    paths = write_report(list(ledger), tmp_path, title="a test")
    assert {path.name for path in paths} == {
        "report.md",
        "report.html",
        "preservation.png",
        "preservation.svg",
        "sheet.png",
    }
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {label} |" in text for label in labels)
    summaries = {one.column: one for one in summarise(list(ledger))}
    nothing = summaries["nothing"].figures
    assert nothing["background"] is not None
    assert nothing["background"].mean == 60
    assert summaries["sdedit (strength=0.5)"].items == 4

    slower = PuppetSettings(columns=settings.columns, steps=3)
    with pytest.raises(ConfigError, match="another steps"):
        run_puppets(model, inspector, tasks, slower, tmp_path)
    model.pipeline.to(dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="another dtype"):
        run_puppets(model, inspector, tasks, settings, tmp_path)


def test_a_column_that_fails_is_written_down(model: LoadedModel, tmp_path: Path) -> None:
    columns = (Column(method="plug-and-play", options={"block": "up_blocks.7.resnets.1"}),)
    settings = PuppetSettings(columns=columns, steps=2, seeds=1)
    tasks = puppet_tasks("tuning", "synthesised", limit=1)
    ledger = run_puppets(model, Inspector(), tasks, settings, tmp_path)
    failed = [row for row in ledger if "error" in row]
    assert len(failed) == 1
    assert "no residual block" in failed[0]["error"]
    summaries = {one.column: one for one in summarise(list(ledger))}
    assert summaries[columns[0].label].failed == 1
    assert "1 failed" in write_report(list(ledger), tmp_path, title="t")[0].read_text()


def test_settings_out_of_range(model: LoadedModel, tmp_path: Path) -> None:
    sdedit = Column(method="sdedit")
    with pytest.raises(ConfigError, match="steps=0"):
        PuppetSettings(columns=(), steps=0)
    with pytest.raises(ConfigError, match="twice"):
        PuppetSettings(columns=(sdedit, sdedit))
    settings = PuppetSettings(columns=(Column(method="magic"),), steps=2)
    tasks = puppet_tasks("tuning", "synthesised", limit=1)
    with pytest.raises(ConfigError, match="no method 'magic'"):
        run_puppets(model, Inspector(), tasks, settings, tmp_path)
    with pytest.raises(MasaCtrlError, match="nothing to report"):
        write_report([], tmp_path, title="t")


def test_kinds_are_all_there() -> None:
    assert {task.kind for task in puppet_tasks("reporting", "synthesised")} == set(KINDS)
