"""A checkpoint in one file, in the layout of the original Stable Diffusion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_models
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from masactrl.errors import ModelNotFound
from masactrl.models import load_pipeline

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
)


def unet_name(name: str) -> str:
    """The name of a U-Net tensor in the original layout (two layers a block, four blocks)."""
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.", name):
        side, block, kind, layer = found.groups()
        number = 3 * int(block) + int(layer) + (1 if side == "down" else 0)
        side = "input" if side == "down" else "output"
        start = f"{side}_blocks.{number}.{0 if kind == 'resnets' else 1}."
    elif found := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.", name):
        start = f"input_blocks.{3 * int(found[1]) + 3}.0.op."
    elif found := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.", name):
        # The first block of the decoder has no attention.
        start = f"output_blocks.{3 * int(found[1]) + 2}.{1 if found[1] == '0' else 2}."
    else:
        old = next(old for old in UNET if name.startswith(f"{old}."))
        start = f"{UNET[old]}."
        found = re.match(rf"{re.escape(old)}\.", name)
    assert found is not None
    rest = name[found.end() :]
    head, _, tail = rest.partition(".")
    return start + (f"{RESNET[head]}.{tail}" if head in RESNET and "resnets" in name else rest)


def vae_name(name: str) -> str:
    for old, new in VAE:
        name = re.sub(old, new, name)
    # Here the blocks of the decoder are numbered from the outside.
    return re.sub(r"\.up\.(\d)", lambda found: f".up.{3 - int(found[1])}", name)


def original_layout(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{unet_name(name)}"] = value
    for name, value in pipeline.vae.state_dict().items():
        # Attention of the original VAE is made of 1 x 1 convolutions.
        convolution = ".attentions." in name and value.ndim == 2
        tensors[f"first_stage_model.{vae_name(name)}"] = (
            value[:, :, None, None] if convolution else value
        )
    for name, value in pipeline.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{name}"] = value
    return {name: value.contiguous() for name, value in tensors.items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(original_layout(tiny_models.sd()), path)
    return path


def test_one_file_holds_the_same_model_as_the_folder(checkpoint: Path, model_folder: Path) -> None:
    one = load_pipeline(checkpoint, config=model_folder)
    other = load_pipeline(model_folder)
    assert (one.name, one.family, one.preset) == ("tiny", "sd", other.preset)
    for part in ("unet", "vae", "text_encoder"):
        mine = getattr(one.pipeline, part).state_dict()
        for name, value in getattr(other.pipeline, part).state_dict().items():
            assert torch.equal(mine[name], value), f"{part} {name}"


def test_without_configuration_and_connection_the_sentence_says_so(checkpoint: Path) -> None:
    with pytest.raises(ModelNotFound, match="needs the configuration of its kind"):
        load_pipeline(checkpoint)
