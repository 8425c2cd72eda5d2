"""PuppetBench's kind layout: its tasks, its judgement, and what leads which column."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")

from masactrl import EditRequest, GenerateRequest, InversionRequest, generate, invert
from masactrl.bench.puppet_figures import JOINTS, judge, right_answers
from masactrl.bench.puppet_report import write_report
from masactrl.bench.puppet_run import RIGHT, Column, PuppetSettings, picture_path, run_puppets
from masactrl.bench.puppet_tasks import LAYOUT, PuppetTask, halves_of
from masactrl.cli import main
from masactrl.errors import ConfigError, ModelNotFound
from masactrl.pictures.images import tensor_to_image
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.judging import JudgedBatch
from masactrl.puppets.posed import draw_skeletons
from masactrl.puppets.renderer import keypoints_of, render
from masactrl.puppets.scene import Pose
from masactrl.runs.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

MASACTRL = Column(method="masactrl", options={"start_step": 1, "start_layer": 8})
COLUMNS = (MASACTRL, replace(MASACTRL, layout=False), Column.written("sdedit:layout=no"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny ControlNet."""
    folder = tmp_path_factory.mktemp("net")
    tiny_models.sd_controlnet().controlnet.save_pretrained(folder)
    return str(folder)


def settings(network: str | None, *columns: Column, **changes: Any) -> PuppetSettings:
    values: dict[str, Any] = {"steps": 2, "seeds": 1, "batch": 2, "pictures": 2}
    return PuppetSettings(columns=columns, layout_model=network, **{**values, **changes})


def shown(folder: Path, task: PuppetTask, label: str) -> np.ndarray:
    with Image.open(picture_path(folder, task.key, 0, label)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_task_moves_a_standing_animal_into_a_pose_of_no_words() -> None:
    tasks = halves_of("reporting", "both", kinds=[LAYOUT])
    assert {task.kind for task in tasks} == {LAYOUT}
    assert len({task.key for task in tasks}) == len(tasks) == 396
    for task in tasks:
        source, target = task.source, task.target
        assert source.identity == target.identity
        assert source.backdrop == target.backdrop
        assert source.pose == Pose(action="standing", facing=target.pose.facing)
        assert source.camera.offset[0] * target.camera.offset[0] <= 0  # the other side
        assert target.camera.shot == "full body"
        assert target.pose.towards is not None or max(map(abs, target.pose.jitter)) > 1


def test_the_pose_passes_and_its_words_do_not() -> None:
    inspector = Inspector.load()
    tasks = halves_of("tuning", "rendered", limit=6, kinds=[LAYOUT])
    answers = [right_answers(task, 256) for task in tasks]
    sources = render([task.source for task in tasks], 256)
    source = JudgedBatch.of(sources.image, inspector)

    def figures(pictures: torch.Tensor) -> Any:
        seen = JudgedBatch.of(pictures, inspector)
        return judge(tasks, source, seen, answers, source_masks=sources.mask)

    right = figures(torch.cat([one.image for one in answers]))
    for one in right:
        assert one.passed == one.asked == 1
        assert one.joints >= JOINTS
        assert one.distance < 1e-4
    still = figures(sources.image)
    assert all(one.passed == one.asked == 0 and one.joints < JOINTS for one in still)


def test_columns_are_led_as_other_engines_lead_them(
    model: LoadedModel, network: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inspector = Inspector().requires_grad_(False).eval()
    tasks = halves_of("tuning", "both", limit=1, kinds=[LAYOUT])
    asked = settings(network, *COLUMNS)
    ledger = run_puppets(model, inspector, tasks, asked, tmp_path / "led")
    rows = {(row["task"], row["column"]): row for row in ledger}
    labels = ["nothing", "prompt-only", "fixed-seed", *(one.label for one in COLUMNS)]
    made, drawn = tasks
    wanted = {(t.key, label) for t in tasks for label in labels} | {(drawn.key, RIGHT)}
    assert set(rows) == wanted
    assert not [row for row in rows.values() if "error" in row]
    assert all(0 <= row["figures"]["joints"] <= 1 for row in rows.values())

    # Without their layouts: what layout=no has, and the sources, are the same to the bit.
    plain = [replace(task, kind="action") for task in tasks]
    run_puppets(model, inspector, plain, settings(None, MASACTRL), tmp_path / "plain")
    for task in tasks:
        for label, other in (("source", "source"), (COLUMNS[1].label, MASACTRL.label)):
            assert np.array_equal(
                shown(tmp_path / "led", task, label), shown(tmp_path / "plain", task, other)
            )
        for label in ("prompt-only", "fixed-seed", MASACTRL.label):
            apart = shown(tmp_path / "led", task, label) - shown(tmp_path / "plain", task, label)
            assert np.abs(apart).mean() > 1

    # With them: what generate and an edit make of the skeletons.
    size = (model.preset.height, model.preset.width)

    def layouts(task: PuppetTask) -> tuple[Layout, ...]:
        skeleton = draw_skeletons(keypoints_of([task.target], size), size)[0]
        picture = tensor_to_image(skeleton, signed=False)
        assert np.array_equal(np.asarray(picture), shown(tmp_path / "led", task, "layout"))
        return (Layout(kind="pose", pictures=(picture,), model=network),)

    own: dict[str, Any] = {"start_step": 1, "start_layer": 8}
    request = GenerateRequest(
        source_prompt=made.source_prompt,
        target_prompts=(made.target_prompt,),
        steps=2,
        seed=made.noise_seed,
        layouts=layouts(made),
        **own,
    )
    (target,) = generate(model, request).targets
    for picture, label in (
        (target.controlled, MASACTRL.label),
        (target.uncontrolled, "fixed-seed"),
    ):
        apart = np.asarray(picture).astype(int) - shown(tmp_path / "led", made, label)
        assert np.abs(apart).mean() < 0.5, label  # rounding of another batch
    source = tensor_to_image(render([drawn.source], size).image[0], signed=False)
    session = invert(model, source, InversionRequest(steps=2))
    edit = EditRequest(
        target_prompts=(drawn.target_prompt,),
        guidance_scale=model.preset.guidance_scale,
        compare=False,
        layouts=layouts(drawn),
        **own,
    )
    picture = session.edit(edit).targets[0].controlled
    assert np.array_equal(np.asarray(picture), shown(tmp_path / "led", drawn, MASACTRL.label))

    text = write_report(list(ledger), tmp_path / "led", title="t")[0].read_text()
    assert "joints in place" in text
    assert "led by its skeleton" in text


def test_what_cannot_be_led_is_said_before_the_run(
    model: LoadedModel, network: str, tmp_path: Path
) -> None:
    posed = halves_of("tuning", "synthesised", limit=1, kinds=[LAYOUT])
    plain = halves_of("tuning", "synthesised", limit=1)
    free = Column.written("masactrl:layout=no")
    assert (free.label, Column.written("masactrl:layout=yes")) == (
        "masactrl, no layout",
        Column(method="masactrl"),
    )
    for tasks, asked, says in (
        (posed, settings(network, Column(method="sdedit")), "write sdedit:layout=no"),
        (plain, settings(None, free), "masactrl, no layout was asked for"),
        (plain, settings(network), "no task has one"),
    ):
        with pytest.raises(ConfigError, match=says):
            run_puppets(model, Inspector(), tasks, asked, tmp_path)
    with pytest.raises(ModelNotFound, match="--layout-model pose=MODEL"):
        run_puppets(model, Inspector(), posed, settings(None), tmp_path)
    with pytest.raises(ConfigError, match="layout=maybe was given to masactrl"):
        Column.written("masactrl:layout=maybe")
    assert not [*tmp_path.iterdir()]


def test_the_measure_is_a_view_of_these_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["puppets", "measure", "layout", "--count", "1", "--steps", "1", "--cfg", "1"]
    words += ["--method", "style-aligned", "-o", str(tmp_path)]
    assert main(words) == 0
    told = capsys.readouterr().out
    for label in ("masactrl, no layout", "fixed-seed, no layout", "style-aligned", "pose IoU"):
        assert label in told
    assert (tmp_path / "layout" / "sheet.png").is_file()
    assert main([*words, "--seed", "1"]) == 2
    assert main(["puppets", "measure", "edits", "--method", "sdedit", "-o", str(tmp_path)]) == 2
