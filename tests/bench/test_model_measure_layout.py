"""The measurement of layouts finds the right answer right, and says what it compared."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from masactrl import load_pipeline
from masactrl.bench import model_measure_layout
from masactrl.bench.model_measure_layout import (
    COLUMNS,
    RIVALS,
    measure_layout_grid,
    measure_layouts,
    posed_scenes,
)
from masactrl.errors import ConfigError
from masactrl.methods import MasaCtrl
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.judging import PipelineRunner
from masactrl.puppets.renderer import render


def test_scenes_are_whole_bodies_and_held_out_ones_of_their_seed() -> None:
    scenes = posed_scenes(30, seed=3)
    assert scenes == posed_scenes(30, seed=3)
    assert scenes[:4] == posed_scenes(4, seed=3)
    assert scenes != posed_scenes(30, seed=4)
    assert {one.camera.shot for one in scenes} == {"full body"}


def test_the_right_answer_has_the_best_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = posed_scenes(4, seed=1)
    right = render(scenes, 256).image
    other = render([one.acting("standing") for one in scenes], 256).image

    def pictures(self: PipelineRunner, prompts: list[str], noise: Tensor) -> Tensor:
        assert len(prompts) == len(noise) == 4 * (1 + len(COLUMNS))
        assert torch.equal(noise[:4], noise[4:8])  # one noise for all of a scene
        # Source, then the columns: the truth, the truth, another pose, another pose.
        return torch.cat((other, right, right, other, other))

    monkeypatch.setattr(model_measure_layout.PipelineRunner, "pictures", pictures)
    # No network is called, which an attachment would complain about.
    monkeypatch.setattr(MasaCtrl, "attach", lambda *_: nullcontext())
    monkeypatch.setattr(model_measure_layout, "attach_layouts", lambda *_, **__: nullcontext())
    found = measure_layouts(
        load_pipeline(device="cpu"),
        Inspector.load(),
        start_step=2,
        start_layer=10,
        count=4,
        steps=2,
        batch=20,
        seed=1,
    )
    assert tuple(found.rows) == COLUMNS
    best, plain = found.rows["layout"], found.rows["MasaCtrl"]
    assert best["pose IoU"] > 0.9
    assert best["joints"] > 0.9
    assert best["pose IoU"] > plain["pose IoU"]
    assert plain["identity error"] < 3
    assert found.samples.shape == (4, 2 + len(COLUMNS), 3, 256, 256)


def test_no_scene_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        measure_layouts(
            load_pipeline(device="cpu"), Inspector.load(), start_step=2, start_layer=10, count=0
        )


def test_rivals_and_every_s_and_l_have_a_row_of_their_own() -> None:
    model, inspector = load_pipeline(device="cpu"), Inspector.load()
    settings = {"count": 1, "steps": 3, "guidance": 1.0, "seed": 2}
    led = measure_layouts(
        model,
        inspector,
        start_step=1,
        start_layer=10,
        rivals=RIVALS[1:],
        **settings,  # type: ignore[arg-type]
    )
    assert tuple(led.rows) == (*COLUMNS, *(f"layout and {name}" for name in RIVALS[1:]))
    assert led.samples.shape[:2] == (1, 2 + len(led.rows))
    assert len({str(row) for row in led.rows.values()}) == len(led.rows)
    grid = measure_layout_grid(
        model,
        inspector,
        start_steps=(0, 1),
        start_layers=(10,),
        **settings,  # type: ignore[arg-type]
    )
    assert tuple(grid.rows) == ("S=0 L=10", "S=1 L=10")
    for name, figure in grid.rows["S=1 L=10"].items():
        assert abs(figure - led.rows["layout and MasaCtrl"][name]) < 0.2, name
    with pytest.raises(ConfigError, match="at least 1"):
        measure_layout_grid(model, inspector, start_steps=(0,), start_layers=(1,), count=0)
