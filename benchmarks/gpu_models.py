"""Random weights of the real classes at Stable Diffusion 1.5's and SDXL's size, made in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from edit_runs import WORDS, build_vae
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from masactrl import LoadedModel, load_pipeline
from masactrl.models.presets import default_preset

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES = {"sd": 512, "sdxl": 1024, "puppets": 256}
TITLES = {
    "sd": "Stable Diffusion 1.5's size, 512 px, 50 steps",
    "sdxl": "SDXL's size, 1024 px, 50 steps",
    "puppets": "embedded model, 256 px, 20 steps",
}
_XL: Mapping[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}


def build(name: str, dtype: torch.dtype, device: str, *, tiny: bool = False) -> LoadedModel:
    """The model of that name on the device; the embedded one has its own weights."""
    if name == "puppets":
        return load_pipeline("puppets", device=device, dtype=str(dtype).removeprefix("torch."))
    torch.manual_seed(0)
    with torch.device(device):  # 3 billion numbers are drawn in no time there
        parts = _parts(name, tiny)
    pipeline: Any
    if name == "sd":
        none = {"safety_checker": None, "feature_extractor": None}
        pipeline = StableDiffusionPipeline(**parts, **none, requires_safety_checker=False)
    else:
        pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False).to(device)
            if dtype != torch.float32:  # diffusers warns of every cast
                part.to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    size = 64 if tiny else SIZES[name]
    family: Any = name
    preset = default_preset(family, height=size, width=size)
    return LoadedModel(pipeline=pipeline, name=name, family=family, preset=preset)


def _parts(name: str, tiny: bool) -> dict[str, Any]:
    words = CLIPTokenizer.from_pretrained(WORDS)
    xl = name == "sdxl"
    widths = (320, 640, 1280) if xl else (320, 640, 1280, 1280)
    heads: Any = (5, 10, 20) if xl else 8
    if tiny:
        widths, heads = (8, 16, 16, 16)[: len(widths)], 2
    vae: AutoencoderKL = build_vae(small=tiny)
    parts: dict[str, Any] = {
        "vae": vae,
        "tokenizer": words,
        "text_encoder": CLIPTextModel(_text(words, 768)),
        "unet": UNet2DConditionModel(
            sample_size=128 if xl else 64,
            block_out_channels=widths,
            attention_head_dim=heads,
            norm_num_groups=4 if tiny else 32,
            **(_XL if xl else {"cross_attention_dim": 768}),
        ),
        "scheduler": DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    }
    if xl:
        parts["tokenizer_2"] = words
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text(words, 1280))
    return parts


def _text(words: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=8,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
