"""Watched runs: the same pictures, and where their points looked, as maps and as figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image, ImageChops

from masactrl.errors import ConfigError, ScheduleError
from masactrl.models import LoadedModel, ModelPreset
from masactrl.pictures.overlays import (
    MaskedPicture,
    heat_over,
    mask_over,
    masks_figure,
    point_on,
    spotlight,
)
from masactrl.runs.generate import GenerateRequest, generate
from masactrl.runs.invert import EditMasks, EditRequest, InversionRequest, invert
from masactrl.studies import attention as attention_view
from masactrl.studies.attention import AttentionView, run_watched

WIDTH, HEIGHT, STEPS = 61, 48, 3
REQUEST = GenerateRequest(source_prompt="a cat", target_prompts=("a dog", "a red bird"), seed=3)
TARGETS = ("a dog running", "a red horse")
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    preset = ModelPreset(
        steps=STEPS, guidance_scale=7.5, start_step=1, start_layer=12, height=48, width=64
    )
    return LoadedModel(pipeline=tiny_models.sd(), name="tiny", family="sd", preset=preset)


def picture(seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def same(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is None


def untouched(model: LoadedModel) -> bool:
    every = model.pipeline.unet.modules()
    return not any(m._forward_hooks or "_diffusers_hook" in vars(m) for m in every)


def test_watched_pictures_are_those_of_generate(model: LoadedModel) -> None:
    plain = generate(model, REQUEST)
    watched, view = run_watched(model, REQUEST)
    assert watched.request == plain.request
    assert watched.recipe("source") == plain.recipe("source")
    for name, one in plain.pictures().items():
        assert same(one, watched.pictures()[name])
    assert untouched(model)
    assert (view.steps, view.layers) == ((1, 2), (12, 13, 14, 15))
    looks = [view.look(20, 30, target=target) for target in (0, 1)]
    assert all(look.map.shape == (6, 8) for look in looks)
    assert not torch.equal(looks[0].map, looks[1].map)
    # The pixel's own cell: all of its pixels look alike, the next cell's do not.
    assert torch.equal(view.look(16, 24).map, view.look(23.9, 31.9).map)
    assert not torch.equal(view.look(16, 24).map, view.look(24, 31.9).map)


def test_edits_are_watched_joint_and_cached_alike(model: LoadedModel) -> None:
    session = invert(model, picture(), InversionRequest(source_prompt="a cat"))
    views: dict[str, AttentionView] = {}
    for mode in ("joint", "cached"):
        request = EditRequest(target_prompts=TARGETS, mode=mode, half=False)
        result, views[mode] = run_watched(session, request)
        assert same(result.targets[0].controlled, session.edit(request).targets[0].controlled)
    for target in (0, 1):
        looks = [view.look(50, 20, target=target).map for view in views.values()]
        torch.testing.assert_close(*looks, atol=1e-3, rtol=1e-2)
    assert untouched(model)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_branches_side_by_side_count_as_one_target(model: LoadedModel, guidance: float) -> None:
    """A null prompt makes the joint batch flat: the targets' branches lie side by side."""
    session = invert(model, picture(), InversionRequest())
    maps = []
    for mode in ("joint", "cached"):
        request = EditRequest(
            target_prompts=TARGETS, mode=mode, half=False, guidance_scale=guidance
        )
        _, view = run_watched(session, request, steps=[2], layers=[13])
        assert view.views.targets == 2
        maps.append([view.look(8, 40, target=target).map for target in (0, 1)])
    torch.testing.assert_close(*maps, atol=1e-3, rtol=1e-2)


def test_masks_and_union_are_in_the_view(model: LoadedModel) -> None:
    session = invert(model, picture(), InversionRequest(source_prompt="a cat"))
    mask = np.zeros((HEIGHT, WIDTH))
    mask[:, : WIDTH // 2] = 1
    masked = EditRequest(target_prompts=TARGETS[:1], masks=EditMasks(source=mask))
    _, view = run_watched(session, masked)
    left, right = (view.look(x, 20, layer=13).map for x in (5, 55))
    assert left[:, 4:].max() < 1e-6
    assert right[:, :3].max() < 1e-6
    _, view = run_watched(session, EditRequest(target_prompts=TARGETS[:1], form="union"))
    assert 0.01 < float(view.look(5, 5).map.sum()) < 0.99
    assert view.figure((5, 5)).width > 3 * 192


def test_a_figure_shows_target_source_and_what_was_read(model: LoadedModel) -> None:
    session = invert(model, picture(), InversionRequest())
    _, view = run_watched(session, EditRequest(target_prompts=TARGETS[:1]))
    look = view.look(60, 47)
    assert view.weights(look).shape == (HEIGHT, WIDTH)
    figure = view.figure((60, 47), step=1, layer=12)
    assert figure.mode == "RGB"
    assert not same(figure, view.figure((0, 0), step=1, layer=12))
    assert view.figure((60, 47), (0, 0)).height > 1.9 * figure.height
    with pytest.raises(ConfigError, match="no point"):
        view.figure()


def test_what_cannot_be_asked_is_said(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in ({"method": "sdedit"}, {"strength": 0.0}):
        values: dict[str, Any] = {"source_prompt": "a cat", "target_prompts": ("a dog",), **change}
        with pytest.raises(ConfigError, match="was given"):
            run_watched(model, GenerateRequest(**values))
    for steps, layers, sentence in (
        ([0], None, "step 0 was asked for; .* at steps 1, 2 of"),
        (None, [3, 12], "layer 3 was asked for; .* at layers 12 to 15 of"),
        ([], None, "no step was asked for"),
    ):
        with pytest.raises(ScheduleError, match=sentence):
            run_watched(model, REQUEST, steps=steps, layers=layers)
    monkeypatch.setattr(attention_view, "BUDGET", 1)
    _, view = run_watched(model, REQUEST)
    assert view.steps == (2,)
    for x, y in ((64, 0), (0, 48), (-1, 0)):
        with pytest.raises(ConfigError, match="0 to 63 across and 0 to 47 down"):
            view.look(x, y)


def test_steps_are_kept_evenly_within_the_budget(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), steps=9, start_step=1
    )
    _, every = run_watched(model, request, layers=[14, 15])
    assert len(every.steps) == 8
    monkeypatch.setattr(attention_view, "BUDGET", every.views.nbytes // 2)
    _, some = run_watched(model, request, layers=[14, 15])
    assert some.steps[0] == every.steps[0]
    assert some.steps[-1] == every.steps[-1]
    assert 2 <= len(some.steps) <= 4
    assert some.views.nbytes <= every.views.nbytes // 2


def test_what_lies_over_a_picture() -> None:
    plain = Image.new("RGB", (40, 20), (200, 100, 50))
    ring = np.asarray(point_on(plain, (0.5, 0.5)))
    assert (ring[10, 20] == (200, 100, 50)).all(), "the point itself stays visible"
    assert (ring[10, 24] != (200, 100, 50)).any()
    weights = np.zeros((2, 4))
    weights[1, 3] = 0.5
    lit = np.asarray(spotlight(plain, weights)).astype(int)
    assert lit[19, 39].sum() == 350 > 5 * lit[0, 0].sum()
    hot = np.asarray(heat_over(plain, weights)).astype(int)
    assert hot[19, 39, 0] > hot[0, 0, 0] + 100
    assert np.asarray(heat_over(plain, np.zeros((2, 4)))).std() < 20
    mask = Image.new("L", (8, 4))
    mask.paste(255, (0, 0, 4, 4))
    over = np.asarray(mask_over(plain, mask)).astype(int)
    assert (over[10, 5] == (200, 100, 50)).all()
    assert (over[10, 19] == (255, 60, 60)).all(), "the rim"
    assert over[10, 30].sum() < 250
    sheet = masks_figure(
        [
            MaskedPicture(picture=plain, mask=mask, caption="source"),
            MaskedPicture(picture=plain, mask=None, caption="target"),
        ]
    )
    assert sheet.width > 2 * 256
    with pytest.raises(ConfigError, match="no mask to show"):
        masks_figure([MaskedPicture(picture=plain, mask=None)])
