"""The ComfyUI nodes' adapter, on calls that the real host made.

`comfyui_calls.json` is one sampling of the embedded model in ComfyUI 0.3.64 (Heun, 3 steps, 32 x
24 latents): its blocks, its noise levels and the options of every self-attention call. Tensors are
drawn here, as the host hands them over.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from masactrl.attention import Schedule, find_layers
from masactrl.errors import (
    ConfigError,
    ControlNotApplied,
    MaskError,
    RowsError,
    UnsupportedPipeline,
)

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
RECORDED = json.loads((Path(__file__).parent / "comfyui_calls.json").read_text())
BEGIN: dict[str, Any] = RECORDED["begin"]
WIDTH = 8


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"comfyui_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


control, source = module("control"), module("source")


def network() -> SimpleNamespace:
    """The host's U-Net as far as layers are looked for: classes by name, in its lists."""

    def part(kind: str, blocks: int) -> Any:
        return type(kind, (), {"transformer_blocks": [SimpleNamespace()] * blocks})()

    found = {
        stage: [[part(*one) for one in sequence] for sequence in sequences]
        for stage, sequences in RECORDED["parts"].items()
    }
    return SimpleNamespace(
        input_blocks=found["input"], middle_block=found["middle"][0], output_blocks=found["output"]
    )


LAYERS = control.find_layers(network())


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, mask: Any, **_: Any) -> Tensor:
    q, k, v = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
    mask = None if mask is None else mask[:, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(-2)


def made(schedule: Schedule | None = None, **options: Any) -> Any:
    chosen = schedule or Schedule(start_step=1, start_layer=10)
    one = control.Control(LAYERS, chosen, attention=attention, **options)
    one.begin(BEGIN["images"], BEGIN["sigmas"][:-1], BEGIN["timesteps"])
    return one


def calls() -> Iterator[tuple[dict[str, Any], int, int]]:
    """Every recorded call as the host's options, with the step and layer that it is of."""
    names = {layer.block: layer.index for layer in LAYERS}
    for call in RECORDED["calls"]:
        extra = {**call, "sigmas": torch.tensor([call["sigma"]] * BEGIN["images"])}
        reached = sum(s >= call["sigma"] * (1 - 1e-6) for s in BEGIN["sigmas"][:-1])
        yield extra, reached - 1, names[*call["block"], call["block_index"]]


def drawn(extra: dict[str, Any], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(extra["tokens"])
    shape = (extra["rows"], extra["tokens"], WIDTH)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def test_layers_are_those_of_diffusers_in_its_order() -> None:
    assert [[one.name, one.place, one.scale] for one in LAYERS] == RECORDED["layers"]
    layers = find_layers(tiny_models.unet())  # four levels, two layers a block, as the host's
    assert [(one.index, one.place, one.scale) for one in LAYERS] == [
        (layer.index, layer.place, layer.scale) for layer in layers
    ]
    assert control.layer_number(" Output.6 ", LAYERS) == control.layer_number("10", LAYERS) == 10
    with pytest.raises(UnsupportedPipeline, match=r"no self-attention layer 'output\.2'"):
        control.layer_number("output.2", LAYERS)
    with pytest.raises(UnsupportedPipeline, match="without self-attention layers of a U-Net"):
        control.find_layers(SimpleNamespace(double_blocks=[]))


def test_the_patch_hands_targets_their_sources_input() -> None:
    one, acted = made(), set()
    assert not one.replaced
    for extra, step, layer in calls():
        n, value = drawn(extra, 2)
        queries, context, read = one.patch(n, n, value, extra)
        assert queries is n
        if step < 1 or layer < 10:
            assert context is n
            assert read is value
            continue
        acted.add((step, layer))
        for branch in range(len(extra["cond_or_uncond"])):
            first = branch * BEGIN["images"]
            for row in range(first, first + BEGIN["images"]):
                assert torch.equal(context[row], n[first])
                assert torch.equal(read[row], value[first])
    one.end()
    assert acted == {(step, layer) for step in (1, 2) for layer in range(10, 16)}


def foreground(height: int, width: int) -> Tensor:
    masks = torch.zeros(2, height, width)
    masks[0, : height // 2], masks[1, :, : width // 2] = 1, 1
    return masks


@pytest.mark.parametrize(
    "options",
    [
        {"form": "union"},
        {"strength": 0.25},
        {"masks": foreground(32, 24)},
        {"masks": foreground(64, 48), "form": "union", "strength": 0.5},
    ],
    ids=["union", "strength", "masks", "all"],
)
def test_replacing_is_the_equations_row_by_row(options: dict[str, Any]) -> None:
    one = made(**options)
    assert one.replaced == one.chosen
    for extra, step, layer in calls():
        q, k, v = drawn(extra, 3)
        if layer < 10 or layer % 5:
            continue
        extra["n_heads"] = 2
        out = one.replace(q, k, v, extra)
        plain = attention(q, k, v, 2, mask=None)
        assert torch.equal(one.patch(q, q, q, extra)[1], q)  # not twice
        for row in range(len(q)):
            base = row // 2 * 2
            if step < 1 or row == base:
                torch.testing.assert_close(out[row], plain[row])
                continue
            expected = literal(q[row], k, v, base, row, LAYERS[layer], options)
            strength = options.get("strength", 1.0)
            torch.testing.assert_close(out[row], torch.lerp(plain[row], expected, strength))


def literal(
    q: Tensor, k: Tensor, v: Tensor, base: int, row: int, layer: Any, options: dict[str, Any]
) -> Tensor:
    """softmax(q K_s^T / sqrt(d)) V_s of one target, with the masks where there are any."""
    read = [base, row] if options.get("form") == "union" else [base]
    keys, values = torch.cat([k[i] for i in read]), torch.cat([v[i] for i in read])
    d = WIDTH // 2
    parts = []
    for head in range(2):
        cut = slice(head * d, (head + 1) * d)
        scores = q[:, cut] @ keys[:, cut].T / d**0.5
        if "masks" in options:
            small = torch.nn.functional.interpolate(
                options["masks"][:, None], (-(-32 // layer.scale), -(-24 // layer.scale))
            )[:, 0].flatten(1)
            of_keys = torch.cat([small[i - base] for i in read])
            of_queries = small[row - base]
            scores = scores.masked_fill(of_queries[:, None] != of_keys[None, :], -torch.inf)
        parts.append(scores.softmax(-1) @ values[:, cut])
    return torch.cat(parts, dim=-1)


def test_several_sources_are_read_side_by_side() -> None:
    one = control.Control(LAYERS, Schedule(start_layer=10), sources=2, attention=attention)
    one.begin(3, BEGIN["sigmas"][:-1], BEGIN["timesteps"])
    extra = {**next(iter(calls()))[0], "block": ["output", 6], "n_heads": 1, "cond_or_uncond": [0]}
    q, k, v = (one_[:3] for one_ in drawn({**extra, "rows": 4}, 3))
    out = one.replace(q, k, v, extra)
    both = attention(q[2:], k[:2].flatten(0, 1)[None], v[:2].flatten(0, 1)[None], 1, mask=None)
    torch.testing.assert_close(out[2:], both)
    torch.testing.assert_close(out[:2], attention(q[:2], k[:2], v[:2], 1, mask=None))


def test_a_watched_layer_is_kept_for_a_look() -> None:
    one = made(watched=10)
    for extra, _, layer in calls():
        extra["n_heads"] = 2
        q, k, v = drawn(extra, 3)
        if layer == 10:
            one.replace(q, k, v, extra)
    seen = one.views.look((0.5, 0.5))
    assert (seen.steps, seen.layers, one.views.targets) == ((1, 2), (10,), 1)
    assert float(seen.map.sum()) == pytest.approx(1, abs=1e-5)


def test_what_does_not_fit_is_said() -> None:
    one = made()
    with pytest.raises(RowsError, match="latent batch of 1 with sources=1"):
        one.begin(1, [1.0], [0.0])
    with pytest.raises(MaskError, match="2 masks for a latent batch of 3"):
        made(masks=foreground(8, 8)).begin(3, [1.0], [0.0])
    extra = next(iter(calls()))[0]
    extra["block"] = ["output", 6]
    (n,) = drawn(extra, 1)
    with pytest.raises(RowsError, match="3 rows in 2 parts for a latent batch of 2"):
        one.patch(n[:3], n[:3], n[:3], extra)
    merged = made(masks=foreground(32, 24))
    extra.update(sigmas=torch.tensor([BEGIN["sigmas"][1]]), n_heads=1)
    with pytest.raises(UnsupportedPipeline, match="merges or tiles"):
        merged.replace(n[:, :7], n[:, :7], n[:, :7], extra)
    with pytest.raises(ControlNotApplied, match="changed no layer"):
        made().end()
    unheard = control.Control(LAYERS, Schedule(start_layer=10), attention=attention)
    with pytest.raises(ControlNotApplied, match="not told of this sampling"):
        unheard.patch(n, n, n, extra)


def test_a_source_stays_on_its_path_and_is_itself_at_the_end() -> None:
    clean, noise = (
        torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
    )
    path = source.with_noise(clean, noise, 14.0)
    for sigma in (0.0, 0.3, 7.0, 14.0, 20.0):
        torch.testing.assert_close(path.at(sigma), clean + sigma * noise)
    levels = [1e-4, 1.0, 3.0]
    walked = source.inverted(clean, levels, [clean, clean + 2, clean + 4])
    torch.testing.assert_close(walked.at(2.0), clean + 3)
    torch.testing.assert_close(walked.at(0.5), clean + 1)
    with pytest.raises(ConfigError, match="broken off"):
        source.inverted(clean, levels, [clean])
    replay = source.Replay(path)
    replay.images = 2
    x = torch.zeros(4, 4, 2, 2)
    given = replay.apply_model(lambda x, *_: x, x, torch.full((4,), 7.0))
    for row in range(4):
        wanted = clean[0] + 7 * noise[0] if row % 2 == 0 else x[row]
        torch.testing.assert_close(given[row], wanted)
    assert not x.any()
    assert torch.equal(replay.finished(x[:2])[0], clean[0])


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "workflows").glob("*.json")), ids=lambda p: p.stem
)
def test_workflows_hold_together(path: Path) -> None:
    graph = json.loads(path.read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    ours = {node["type"] for node in graph["nodes"] if node["type"].startswith("MasaCtrl")}
    text = (FOLDER / "nodes.py").read_text()
    assert ours
    assert all(f'"{name}": {name},' in text for name in ours)
    for number, begin, slot, end, taken, kind in graph["links"]:
        assert number in nodes[begin]["outputs"][slot]["links"]
        assert nodes[end]["inputs"][taken]["link"] == number
        assert nodes[begin]["outputs"][slot]["type"] == kind


def test_the_adapter_needs_no_diffusers() -> None:
    for name in ("control", "source"):
        text = (FOLDER / f"{name}.py").read_text()
        assert "diffusers" not in text.replace("none imports diffusers", "")
