from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import tiny_models
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from oracles.literal import layer_order

from masactrl.attention import find_layers
from masactrl.errors import UnsupportedPipeline

UNETS = {"sd": (tiny_models.unet(), 16), "sdxl": (tiny_models.unet(xl=True), 70)}
WEIGHTS = Path(str(resources.files("masactrl"))) / "puppets" / "weights"


def forward(unet: UNet2DConditionModel, height: int = 8, width: int = 8) -> None:
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)
    extra = {"text_embeds": torch.zeros(1, tiny_models.TEXT_WIDTH), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        unet(torch.zeros(1, 4, height, width), 1, text, added_cond_kwargs=extra)


@pytest.mark.parametrize("kind", UNETS)
def test_order_is_the_order_of_execution(kind: str) -> None:
    unet, count = UNETS[kind]
    layers = find_layers(unet)
    assert len(layers) == count
    assert [layer.index for layer in layers] == list(range(count))
    assert [layer.name for layer in layers] == layer_order(unet, lambda: forward(unet))


def test_places_and_scales_of_stable_diffusion() -> None:
    layers = find_layers(UNETS["sd"][0])
    places = [layer.place for layer in layers]
    assert places == ["encoder"] * 6 + ["mid"] + ["decoder"] * 9
    assert [layer.scale for layer in layers] == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]


def test_places_and_scales_of_sdxl() -> None:
    layers = find_layers(UNETS["sdxl"][0])
    places = [layer.place for layer in layers]
    assert places == ["encoder"] * 24 + ["mid"] * 10 + ["decoder"] * 36
    assert [layer.scale for layer in layers] == [2] * 4 + [4] * 60 + [2] * 6


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (9, 13)])
@pytest.mark.parametrize("kind", UNETS)
def test_grid_is_the_number_of_tokens(kind: str, size: tuple[int, int]) -> None:
    unet, _ = UNETS[kind]
    layers = find_layers(unet)
    tokens: dict[str, int] = {}
    handles = [
        layer.module.register_forward_pre_hook(
            lambda _, args, name=layer.name: tokens.__setitem__(name, args[0].shape[1])
        )
        for layer in layers
    ]
    forward(unet, *size)
    for handle in handles:
        handle.remove()
    assert {s.name: s.grid(*size)[0] * s.grid(*size)[1] for s in layers} == tokens


def test_the_embedded_model_runs_its_layers_in_this_order() -> None:
    config = UNet2DConditionModel.load_config(WEIGHTS / "unet")
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config)  # the layout is what counts, not the weights
    channels, size = unet.config.in_channels, unet.config.sample_size
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)

    def call() -> None:
        with torch.no_grad():
            unet(torch.zeros(1, channels, size, size), 1, text)

    layers = find_layers(unet)
    assert [layer.name for layer in layers] == layer_order(unet, call)
    assert [layer.place for layer in layers] == ["encoder"] * 6 + ["mid"] + ["decoder"] * 9
    assert [layer.scale for layer in layers] == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]


def test_compiled_names_carry_no_prefix() -> None:
    unet = tiny_models.unet()
    plain = [layer.name for layer in find_layers(unet)]
    unet.mid_block = torch.compile(unet.mid_block, backend="eager")
    assert [layer.name for layer in find_layers(torch.compile(unet, backend="eager"))] == plain


def test_blocks_that_read_text_first_are_no_self_attention() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        only_cross_attention=(True, False),
        attention_head_dim=2,
        cross_attention_dim=8,
        norm_num_groups=4,
    )
    assert [layer.name.split(".")[0] for layer in find_layers(unet)] == ["mid_block"]


def test_a_network_without_transformer_blocks_is_refused() -> None:
    unet = UNet2DModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
    )
    with pytest.raises(UnsupportedPipeline, match="No self-attention layer was found"):
        find_layers(unet)
