"""Families of networks: layers in the order they run, steps, and places of keys."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny_mmdit
import torch
from torch import Tensor

from masactrl.attention import PRESETS, Schedule, StepTracker, find_layers, preset
from masactrl.attention.positions import Positions, correspondences, damping_of, turned
from masactrl.errors import ConfigError, ScheduleError


def traced(pipe: Any) -> list[str]:
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in pipe.transformer.named_modules()
        if name.endswith((".attn", ".attn2"))
    ]
    tiny_mmdit.run(pipe, ["a cat"], steps=1, guidance=1.0)
    for handle in handles:
        handle.remove()
    return order


@pytest.mark.parametrize("kind", ["sd3", "sd3.5", "flux"])
def test_layers_are_counted_in_the_order_they_run(kind: str) -> None:
    pipe = tiny_mmdit.flux() if kind == "flux" else tiny_mmdit.sd3(dual=kind == "sd3.5")
    layers = find_layers(pipe.transformer)
    assert [layer.index for layer in layers] == list(range(6 if kind == "flux" else 4))
    parts = [s.name + ("2" if n else "") for s in layers for n in range(len(s.parts))]
    assert parts == traced(pipe)


@pytest.mark.parametrize(
    ("network", "kind", "count", "second"),
    [
        ("SD3Transformer2DModel", {"num_layers": 24}, 24, 0),
        ("SD3Transformer2DModel", {"num_layers": 38}, 38, 0),
        (
            "SD3Transformer2DModel",
            {"num_layers": 24, "dual_attention_layers": tuple(range(13))},
            24,
            13,
        ),
        ("FluxTransformer2DModel", {}, 57, 0),
    ],
)
def test_layers_of_the_real_layouts(
    network: str, kind: dict[str, Any], count: int, second: int
) -> None:
    with torch.device("meta"):
        layers = find_layers(getattr(diffusers, network)(**kind))
    assert len(layers) == count
    assert sum(layer.second is not None for layer in layers) == second
    name = {24: "sd3", 38: "sd3.5-large", 57: "flux"}[count]
    assert preset(layers) is PRESETS[name]
    spans = Schedule(layers=range(5, 9)).resolve_layers(layers)
    assert [layer.index for layer in spans] == [5, 6, 7, 8]
    if count == 57:
        assert [layer.place for layer in layers] == ["joint"] * 19 + ["single"] * 38
        with pytest.raises(ScheduleError, match=r"layer=60.*layers 0 to 56\."):
            Schedule(layers=(60,)).resolve_layers(layers)
    with pytest.raises(ScheduleError, match=r"'encoder'.*this network has.*joint"):
        Schedule(places=("encoder",)).resolve_layers(layers)


@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_steps_of_flux(steps: int, dtype: torch.dtype) -> None:
    """Timesteps arrive rounded and divided by 1000; neighbours may be equal then."""
    scheduler = tiny_mmdit.flux().scheduler
    scheduler.set_timesteps(steps, mu=1.15)
    scheduler.set_begin_index(0)
    tracker, seen = StepTracker(1000.0), []
    for t in scheduler.timesteps:
        info = tracker.step_of(t.expand(2).to(dtype) / 1000, scheduler)
        seen.append(info.step)
        assert info.timestep == float(t)
        scheduler._step_index = info.step + 1
    assert seen == list(range(steps))


AXES, THETA = (2, 4, 6), 10000.0


def rotary(tokens: int) -> tuple[Tensor, Tensor]:
    ids = torch.stack([torch.zeros(tokens), torch.arange(tokens) // 3, torch.arange(tokens) % 3], 1)
    embedding = diffusers.models.transformers.transformer_flux.FluxPosEmbed(int(THETA), list(AXES))
    cos, sin = embedding(ids)
    return cos, sin


def layer_turns(keys: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    return diffusers.models.embeddings.apply_rotary_emb(keys, places, sequence_dim=1)


KEYS = torch.randn(2, 6, 3, 12, generator=torch.Generator().manual_seed(0))


def test_keys_at_no_place_stand_at_the_origin() -> None:
    made = layer_turns(turned(KEYS, Positions(policy="none"), rotary(6)), rotary(6))
    assert torch.allclose(made, KEYS, atol=1e-5)


def test_matched_keys_stand_where_they_are_sent() -> None:
    match = torch.tensor([[5, 4, 3, 2, 1, 0], [0, 0, 2, 2, 4, 4]])
    cos, sin = rotary(6)
    made = layer_turns(
        turned(KEYS, Positions(policy="matched"), (cos, sin), match=match), (cos, sin)
    )
    for row in range(2):
        there = (cos[match[row]], sin[match[row]])
        assert torch.allclose(made[row], layer_turns(KEYS[row : row + 1], there)[0], atol=1e-5)


def test_damping_takes_the_fast_pairs_alone() -> None:
    factors = damping_of(Positions(policy="damped", damping=0.5, reach=7.0), AXES, THETA)
    # 2 pi tokens for the fastest pair of an axis, hundreds for the next; the first axis is no place
    assert factors.tolist() == [1, 1, 0.5, 0.5, 1, 1, 0.5, 0.5, 1, 1, 1, 1]
    assert bool((damping_of(Positions(reach=6.0), AXES, THETA) == 1).all())


def test_correspondences_of_moved_features_are_the_move() -> None:
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 1, 2, 0, 8, 7, 4, 5, 6])
    assert torch.equal(correspondences(features[order], 2 * features), order)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"policy": "near"}, "positions='near'.*same, none, damped, matched"),
        ({"damping": 1.5}, "damping=1.5.*0 to 1"),
        ({"reach": 0.0}, "reach=0.0.*above 0"),
    ],
)
def test_bad_positions(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Positions(**options)
