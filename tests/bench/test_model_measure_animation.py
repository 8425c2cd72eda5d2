"""Animations are measured against the renderer's exact motion, which the truth follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from masactrl.bench import model_measure_animation as module
from masactrl.bench.model_measure_animation import COLUMNS, clip_figures, clips_of
from masactrl.errors import ConfigError
from masactrl.pictures.images import tensor_to_images
from masactrl.puppets.gaits import GAITS, gait_scenes
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.motion import exact_motion
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import COLOURS, Scene


def patched(scene: Scene, coat: str = "white") -> Scene:
    animal = replace(scene.identity, pattern="patches", coat=COLOURS[coat], accent=COLOURS["black"])
    return replace(scene, identity=animal)


@pytest.mark.parametrize("gait", GAITS)
def test_a_drawn_animal_is_found_again_where_the_motion_says(gait: str) -> None:
    scenes = tuple(map(patched, gait_scenes(gait, 6, species="dog", facing="right")))
    pictures = render(scenes, 128).image
    moved, seen = exact_motion(scenes, 128)
    assert moved.shape == (5, 128, 128, 2)
    assert seen.float().mean() > 0.05
    after = F.grid_sample(pictures[1:], moved / 128 * 2 - 1, align_corners=False)
    mask = seen[:, None].expand_as(after)
    error = (after - pictures[:-1]).abs()[mask].mean()
    still = (pictures[1:] - pictures[:-1]).abs()[mask].mean()
    assert error < 0.35 * still


def test_the_truth_has_the_best_figures_and_a_flicker_is_seen() -> None:
    scenes = gait_scenes("walk", 4, species="cat", facing="left")
    inspector = Inspector.load()
    right = render(list(map(patched, scenes)), 256).image
    source = right[:1]
    good = clip_figures(inspector, source, right, scenes)
    coats = ("white", "blue", "white", "orange")
    other = [patched(scene, coat) for scene, coat in zip(scenes, coats, strict=True)]
    flickers = clip_figures(inspector, source, render(other, 256).image, scenes)
    still = clip_figures(inspector, source, right[:1].repeat(4, 1, 1, 1), scenes)
    assert good["pose IoU"] > 0.9
    assert good["joints"] > 0.7  # the far legs of a walk hide behind the near ones
    assert good["flicker"] < 3
    assert flickers["flicker"] > 5 * good["flicker"]
    assert flickers["identity error"] > good["identity error"] + 5
    assert still["warped error"] > 2 * good["warped error"]
    assert still["flicker"] < 0.01


def test_clips_are_all_gaits_and_every_column_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = clips_of(8, seed=1)
    assert [one.gait for one in clips] == [GAITS[(1 + k) % 4] for k in range(8)]
    assert clips[:3] == clips_of(3, seed=1)
    asked: list[tuple[float, bool]] = []

    def animate(_model: Any, request: Any, poses: Any, *, batch: int, first_frame: bool) -> Any:
        asked.append((request.strength, first_frame))
        scenes = clips_of(1)[0].scenes(len(poses.pictures))
        frames = tensor_to_images(render(scenes, 256).image, signed=False)
        return type("Made", (), {"source": frames[0], "frames": frames})

    monkeypatch.setattr(module, "animate", animate)
    model: Any = type("Model", (), {"preset": type("Preset", (), {"height": 256})})
    found = module.measure_animations(
        model, Inspector.load(), start_step=2, start_layer=10, count=1, frames=3
    )
    assert asked == [(0.0, False), (1.0, False), (1.0, True)]
    assert tuple(found.rows) == COLUMNS
    assert found.rows["layout"]["pose IoU"] > 0.9
    assert torch.tensor(list(found.rows["MasaCtrl"].values())).isfinite().all()
    with pytest.raises(ConfigError, match="at least 1"):
        module.measure_animations(model, Inspector.load(), start_step=2, start_layer=10, count=0)
    with pytest.raises(ConfigError, match="at least 2"):
        exact_motion(clips_of(1)[0].scenes(2)[:1], 64)
