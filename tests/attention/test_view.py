"""Where a target looks: exactly what the controlled layer computes, in every kind of run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from oracles.literal_view import Projections, where

from masactrl.attention import GivenMasks, Rows, Schedule, find_layers
from masactrl.attention.capture import capture
from masactrl.attention.view import AttentionRecord, QueryKeys, attention_row
from masactrl.errors import ConfigError, ControlNotApplied, RowsError, ScheduleError
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running", "a red dog"]
LATENT = (8, 12)
SCHEDULE = Schedule(start_step=1, start_layer=12)
STEPS, LAYERS = (1, 2), (12, 13, 14, 15)
GENERATOR = torch.Generator().manual_seed(1)
MASKS = tuple((torch.rand(8, 12, generator=GENERATOR) > 0.4).float() for _ in PROMPTS)
POINTS = ((0.0, 0.0), (0.45, 0.8), (0.999, 0.3))


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_models.sd()


def control(form: str) -> MasaCtrl:
    masks = GivenMasks(images=MASKS) if "masks" in form else None
    return MasaCtrl(schedule=SCHEDULE, form="union" if "union" in form else "replace", masks=masks)


def untouched(pipe: Any) -> bool:
    hooks = [m for m in pipe.unet.modules() if m._forward_hooks or "_diffusers_hook" in vars(m)]
    return not hooks


def literal(pipe: Any, form: str, step: int, number: int) -> tuple[Tensor, Any]:
    """The run's result, and a function from target and token to the weights of the source."""
    (layer,) = [one for one in find_layers(pipe.unet) if one.index == number]
    kept = Projections(layer.module)
    with control(form).attach(pipe, Rows.one_source(targets=2)):
        result = tiny_models.run(pipe, PROMPTS, size=LATENT)
    kept.remove()
    calls = {"replace": 1, "union": 2, "masks": 3, "union masks": 3}[form]
    # Before the first controlled step the layer is called once a step.
    first = 1 + (step - 1) * calls
    grid = layer.grid(*LATENT)
    tokens = grid[0] * grid[1]

    def weights(target: int, token: int) -> list[float]:
        if form == "replace":  # one call: rows u_s u_1 u_2 c_s c_1 c_2
            row, call = 3 + 1 + target, first
        else:  # sources first, then the targets: rows u_1 u_2 c_1 c_2
            row, call = 2 + target, first + 1
        allowed = None
        if "masks" in form:
            small = [torch.nn.functional.interpolate(m[None, None], grid)[0, 0] for m in MASKS]
            flat = [m.flatten().tolist() for m in small]
            mine = flat[1 + target]
            read = flat[0] + (mine if "union" in form else [])
            allowed = [key == mine[token] for key in read]
        found = where(kept.q[call][row, token], kept.k[call][row], layer.module.heads, allowed)
        return found[:tokens]

    return result, weights


@pytest.mark.parametrize("form", ["replace", "union", "masks", "union masks"])
@pytest.mark.parametrize(("step", "layer"), [(1, 12), (2, 14)])
def test_a_look_is_the_explicit_softmax_of_the_layer(
    pipe: StableDiffusionPipeline, form: str, step: int, layer: int
) -> None:
    plain, weights = literal(pipe, form, step, layer)
    with (
        capture(pipe, own="union" in form) as views,
        control(form).attach(pipe, Rows.one_source(targets=2)),
    ):
        watched = tiny_models.run(pipe, PROMPTS, size=LATENT)
    assert torch.equal(plain, watched), "who is watched does the same"
    assert (views.steps, views.layers, views.targets) == (STEPS, LAYERS, 2)
    assert untouched(pipe)
    for target in (0, 1):
        for point in POINTS:
            look = views.look(point, target=target, step=step, layer=layer)
            rows, columns = look.map.shape
            token = int(point[1] * rows) * columns + int(point[0] * columns)
            expected = torch.tensor(weights(target, token)).reshape(rows, columns)
            torch.testing.assert_close(look.map, expected, atol=1e-6, rtol=1e-4)
            if "union" not in form:
                assert float(look.map.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("form", ["replace", "union", "masks"])
def test_a_recorded_source_is_looked_at_alike(pipe: StableDiffusionPipeline, form: str) -> None:
    with (
        capture(pipe, own=form == "union") as joint,
        control(form).attach(pipe, Rows.one_source(targets=2)),
    ):
        tiny_models.run(pipe, PROMPTS, size=LATENT)
    given = GivenMasks(images=MASKS[1:], sources=MASKS[:1]) if form == "masks" else None
    apart = MasaCtrl(schedule=SCHEDULE, form="union" if form == "union" else "replace", masks=given)
    with capture(pipe, own=form == "union") as cached:
        with apart.record(pipe) as source:
            tiny_models.run(pipe, PROMPTS[:1], size=LATENT)
        with apart.attach(pipe, Rows.from_cache(targets=2), source=source):
            tiny_models.run(pipe, PROMPTS[1:], size=LATENT)
    assert cached.steps == joint.steps
    for target in (0, 1):
        for point in POINTS:
            torch.testing.assert_close(
                cached.look(point, target=target).map,
                joint.look(point, target=target).map,
                atol=1e-4,
                rtol=1e-3,
            )


def test_one_watch_serves_controls_attached_before_and_inside(
    pipe: StableDiffusionPipeline,
) -> None:
    maps = []
    for watched_first in (True, False):
        with ExitStack() as stack:
            attach = control("replace").attach(pipe, Rows.one_source(targets=1))
            if watched_first:
                views = stack.enter_context(capture(pipe, steps=[2], layers=[13]))
                stack.enter_context(attach)
            else:
                stack.enter_context(attach)
                views = stack.enter_context(capture(pipe, steps=[2], layers=[13]))
            tiny_models.run(pipe, PROMPTS[:2], guidance=1.0)
        maps.append(views.look((0.3, 0.3)).map)
        assert (views.steps, views.layers) == ((2,), (13,))
        assert untouched(pipe)
    assert torch.equal(*maps)


def test_the_mean_goes_over_steps_and_layers_at_the_finest_grid(
    pipe: StableDiffusionPipeline,
) -> None:
    with capture(pipe) as views, control("replace").attach(pipe, Rows.one_source(targets=1)):
        tiny_models.run(pipe, PROMPTS[:2])
    assert views.nbytes > 0
    point = (0.6, 0.2)
    every = views.look(point)
    assert (every.steps, every.layers, every.map.shape) == (STEPS, LAYERS, (8, 8))
    assert float(every.map.sum()) == pytest.approx(1, abs=1e-5)
    coarse = views.look(point, layer=12)
    assert coarse.map.shape == (4, 4)
    parts = [coarse.map.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4]
    parts += [views.look(point, layer=layer).map for layer in LAYERS[1:]]
    torch.testing.assert_close(every.map, torch.stack(parts).mean(0))
    of_layer = [views.look(point, layer=13, step=step).map for step in STEPS]
    torch.testing.assert_close(views.look(point, layer=13).map, torch.stack(of_layer).mean(0))


def test_a_second_run_replaces_the_first(pipe: StableDiffusionPipeline) -> None:
    with capture(pipe) as views, control("replace").attach(pipe, Rows.one_source(targets=1)):
        tiny_models.run(pipe, PROMPTS[:2], seed=1)
        first = views.look((0.1, 0.1)).map
        tiny_models.run(pipe, PROMPTS[:2], seed=2, steps=2)
    assert views.steps == (1,)
    assert not torch.equal(first, views.look((0.1, 0.1)).map)


def test_what_cannot_be_watched_is_said(pipe: StableDiffusionPipeline) -> None:
    rows = Rows.one_source(targets=1)
    with pytest.raises(ControlNotApplied, match="Nothing was captured"), capture(pipe):
        tiny_models.run(pipe, PROMPTS[:1], steps=2)
    with (
        pytest.raises(ScheduleError, match="step 0 was to be captured"),
        capture(pipe, steps=[0, 1]),
        control("replace").attach(pipe, rows),
    ):
        tiny_models.run(pipe, PROMPTS[:2], steps=2)
    with (
        pytest.raises(ScheduleError, match=r"layer 3 was to be captured.*acted at layers 12"),
        capture(pipe, layers=[3, 12]),
        control("replace").attach(pipe, rows),
    ):
        tiny_models.run(pipe, PROMPTS[:2], steps=2)
    with (
        pytest.raises(RowsError, match="read 2 sources each"),
        capture(pipe),
        control("replace").attach(pipe, Rows.groups([(2, 1)])),
    ):
        tiny_models.run(pipe, PROMPTS, steps=2)
    with (
        pytest.raises(RowsError, match="1 controlled rows, which is no multiple of the 2"),
        capture(pipe, targets=2),
        control("replace").attach(pipe, rows),
    ):
        tiny_models.run(pipe, PROMPTS[:2], steps=2)
    assert untouched(pipe)


def test_what_cannot_be_looked_at_is_said() -> None:
    seen = QueryKeys(
        grid=(1, 2), queries=torch.ones(1, 2, 2), keys=torch.ones(1, 2, 2), mask=None, key_mask=None
    )
    views = AttentionRecord()
    for step in (4, 5, 6):
        views.keep(step, 10, [seen])
    assert views.look((0.0, 0.0)).map.tolist() == [[0.5, 0.5]]
    for point in ((1.0, 0.0), (-0.1, 0.5), (float("nan"), 0.5)):
        with pytest.raises(ConfigError, match="just below 1"):
            views.look(point)
    with pytest.raises(ConfigError, match="targets 0 to 0"):
        views.look((0.0, 0.0), target=1)
    with pytest.raises(ScheduleError, match="steps 4 to 6 and layers 10"):
        views.look((0.0, 0.0), step=3)
    views.clear()
    assert views.targets == 0


def test_without_an_allowed_key_all_weigh_the_same() -> None:
    keys = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    row = attention_row(keys[:, 0], keys, torch.zeros(5, dtype=torch.bool))
    torch.testing.assert_close(row, torch.full((5,), 0.2))
