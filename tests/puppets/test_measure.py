from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch

from masactrl.bench.model_figures import draw_grid, edit_sheet, prompt_sheet
from masactrl.bench.model_measure import (
    ASKED,
    measure_edits,
    measure_grid,
    measure_prompts,
    sample_edits,
)
from masactrl.errors import ConfigError, MissingExtra, ScheduleError
from masactrl.puppets.captions import parse, sample_prompts
from masactrl.puppets.identity import PATTERN_WEIGHT
from masactrl.puppets.inspector import QUESTIONS, Inspector
from masactrl.puppets.judging import JudgedBatch, Means, background_psnr
from masactrl.puppets.measured import EditSide
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import Scene, sample_scene
from masactrl.puppets.training.data import HELD_OUT_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import StableDiffusionPipeline

QUICK = {"steps": 3, "guidance": 2.0, "size": 64, "seed": 1}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return tiny_models.sd()


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    torch.manual_seed(0)
    return Inspector().requires_grad_(False).eval()


def close(first: EditSide, second: EditSide, tolerance: float = 0.05) -> bool:
    return all(abs(getattr(first, n) - getattr(second, n)) <= tolerance for n in EditSide.__slots__)


# --------------------------------------------------------------------------------------- tasks


def test_edits_change_the_action_alone() -> None:
    tasks = sample_edits(200, seed=4)
    assert tasks == sample_edits(200, seed=4)
    assert tasks != sample_edits(200, seed=5)
    assert tasks[:10] == sample_edits(10, seed=4)
    for task in tasks:
        source, target = parse(task.source_prompt), parse(task.target_prompt)
        assert source.action == task.source_action
        assert target.action == task.target_action
        assert source.action != target.action
        assert replace(source, action=target.action) == target
        assert (source.species, source.place, source.facing) == (
            task.species,
            task.place,
            task.facing,
        )


def test_spare_edits_leave_place_and_facing_to_the_source() -> None:
    for full, spare in zip(
        sample_edits(50, seed=4), sample_edits(50, seed=4, spare=True), strict=True
    ):
        assert spare.source_prompt == full.source_prompt
        said = parse(spare.target_prompt)
        assert (said.species, said.action) == (full.species, full.target_action)
        assert (said.place, said.facing) == (None, None)


def test_no_edits_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        sample_edits(0, seed=0)


# ------------------------------------------------------------------------------------- figures


def test_the_identity_error_is_the_documented_number() -> None:
    rest = {"action": 1, "species": 1, "facing": 1, "place": 1, "background": 30}
    side = EditSide(colours=7.0, coat=10.0, accent=20.0, pattern=0.4, **rest)
    assert side.identity_error == pytest.approx(7 + 0.4 * PATTERN_WEIGHT)
    assert side.named_error == pytest.approx(15 + 0.4 * 25)


def test_the_background_is_compared_without_the_animals() -> None:
    first = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    animals = torch.zeros(3, 1, 32, 32)
    animals[:, :, 10:20, 10:20] = 1
    other = first.clone()
    other[:, :, 10:20, 10:20] = 1  # another animal
    other[1] += 0.1
    other[2, :, 8, 8] = 1  # on the blurred outline
    measured = background_psnr(first, other, animals)
    assert measured[0] == 60
    assert measured[1] == pytest.approx(20, abs=1e-3)
    assert measured[2] == 60


def test_a_picture_covered_by_the_animal_has_no_background() -> None:
    picture = torch.zeros(1, 3, 16, 16)
    assert background_psnr(picture, picture + 1, torch.ones(1, 1, 16, 16)) == 60


# -------------------------------------------------------------------------------- measurements


def test_prompts(pipeline: StableDiffusionPipeline, inspector: Inspector) -> None:
    progress: list[tuple[int, int]] = []
    found = measure_prompts(
        pipeline,
        inspector,
        count=5,
        batch=2,
        on_progress=lambda done, of: progress.append((done, of)),
        **QUICK,
    )
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert found.count == 5
    assert found.samples.shape == (5, 3, 64, 64)
    assert set(found.shares) == {*ASKED, "all"}
    for question in ASKED:
        table = found.confusion[question]
        assert table.sum() == 5
        assert found.shares[question] == pytest.approx(table.diagonal().sum().item() / 5)
        asked = [QUESTIONS[question].index(getattr(t, question)) for t in found.tasks]
        assert torch.equal(table.sum(1), torch.bincount(torch.tensor(asked), minlength=len(table)))
    assert found.shares["all"] <= min(found.shares[q] for q in ASKED)
    assert len(found.readings) == len(found.tasks) == 5
    together = measure_prompts(pipeline, inspector, count=5, batch=5, **QUICK)
    assert torch.allclose(found.samples, together.samples, atol=1e-3)
    assert prompt_sheet(found, columns=3).width > 3 * 64


def test_edits_are_judged_as_the_pictures_say(
    pipeline: StableDiffusionPipeline, inspector: Inspector
) -> None:
    before = [id(p) for p in pipeline.unet.attn_processors.values()]
    found = measure_edits(
        pipeline, inspector, start_step=1, start_layer=4, pairs=4, batch=6, **QUICK
    )
    assert [id(p) for p in pipeline.unet.attn_processors.values()] == before
    assert found.pairs == 4
    assert found.samples.shape == (4, 3, 3, 64, 64)
    source, controlled, uncontrolled = (
        JudgedBatch.of(found.samples[:, k], inspector) for k in range(3)
    )
    assert not torch.allclose(controlled.pictures, uncontrolled.pictures, atol=1e-3)
    for side, target in ((found.controlled, controlled), (found.uncontrolled, uncontrolled)):
        tally = Means()
        tally.add(found.tasks, source, target)
        assert close(side, tally.side())
    assert found.identity_ratio == pytest.approx(
        found.controlled.identity_error / found.uncontrolled.identity_error
    )
    sheet = edit_sheet(found)
    assert sheet.width > 3 * 64
    # The uncontrolled targets are what the pipeline makes without us.
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(QUICK["seed"]))
    plain = pipeline(
        [found.tasks[0].target_prompt],
        latents=noise,
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    assert torch.allclose(plain, found.samples[:1, 2], atol=1e-3)


def test_a_cell_of_the_grid_is_the_edit_with_its_s_and_l(
    pipeline: StableDiffusionPipeline, inspector: Inspector
) -> None:
    progress: list[tuple[int, int]] = []
    grid = measure_grid(
        pipeline,
        inspector,
        start_steps=(0, 2),
        start_layers=(0, 8, 15),
        pairs=3,
        batch=2,
        on_progress=lambda done, of: progress.append((done, of)),
        **QUICK,
    )
    assert progress[-1] == (18, 18)
    assert grid.values("coat").shape == (2, 3)
    one = measure_edits(pipeline, inspector, start_step=2, start_layer=8, pairs=3, batch=9, **QUICK)
    assert close(grid.cells[1][1], one.controlled)
    assert close(grid.uncontrolled, one.uncontrolled)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(MissingExtra, match="bench"):
            draw_grid(grid)
    else:
        assert draw_grid(grid).width > 600


def test_what_cannot_be_measured_is_said(
    pipeline: StableDiffusionPipeline, inspector: Inspector
) -> None:
    with pytest.raises(ConfigError, match="count must be at least 1"):
        measure_prompts(pipeline, inspector, count=0)
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        measure_edits(pipeline, inspector, start_step=0, start_layer=0, batch=0)
    with pytest.raises(ConfigError, match="start_layers must be at least 1"):
        measure_grid(pipeline, inspector, start_steps=(0,), start_layers=())
    with pytest.raises(ScheduleError, match="0 to 15"):
        measure_edits(pipeline, inspector, start_step=0, start_layer=16, pairs=1, **QUICK)


# ------------------------------------------------------------------------------------- shipped


class Painter:
    """A pipeline that cannot be wrong: it renders what the prompt says."""

    def __init__(self) -> None:
        self.unet, self.scheduler = tiny_models.unet(), tiny_models.scheduler()
        self.vae_scale_factor, self.device = 8, torch.device("cpu")
        self._generator = torch.Generator().manual_seed(HELD_OUT_SEED + 55)

    def __call__(self, prompt: Sequence[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(images=render([self._scene(p) for p in prompt], 128).image)

    def _scene(self, prompt: str) -> Scene:
        said, drawn = parse(prompt), sample_scene(self._generator, close_up=0.0)
        return replace(
            drawn,
            identity=replace(drawn.identity, species=said.species),
            pose=replace(drawn.pose, action=said.action, facing=said.facing),
            backdrop=replace(drawn.backdrop, place=said.place),
        )


def test_pictures_that_are_right_are_found_right() -> None:
    found = measure_prompts(Painter(), Inspector.load(), count=48, batch=48)  # type: ignore[arg-type]
    assert all(found.shares[q] >= 0.93 for q in ASKED)
    assert (found.close_up_unasked, found.close_up_asked) == (0, None)


def test_close_ups_are_counted_where_they_are_asked_for_and_where_not() -> None:
    class Near(Painter):
        def _scene(self, prompt: str) -> Scene:
            scene = super()._scene(prompt)
            return replace(scene, camera=sample_scene(self._generator, close_up=1.0).camera)

    found = measure_prompts(Near(), Inspector.load(), count=12, batch=12, close_ups=12)  # type: ignore[arg-type]
    assert found.close_up_unasked >= 0.9
    assert found.close_up_asked is not None
    assert found.close_up_asked >= 0.9
    for one in sample_prompts(20, 3, close_up=True):
        assert "close-up" in one.prompt
        assert one.close_up
    assert not any("close-up" in one.prompt for one in sample_prompts(20, 3))
