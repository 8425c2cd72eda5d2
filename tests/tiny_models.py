"""Tiny random-weight pipelines of the real diffusers classes, built offline.

The U-Nets keep the layouts that the method counts: 16 self-attention layers for Stable Diffusion
(down 0-5, mid 6, up 7-15), 70 for SDXL (0-23, 24-33, 34-69). The weights are random, so pictures
mean nothing; equalities do.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)

WORDS = (
    "a the photo of in on cat dog horse bird sitting standing running jumping meadow beach red "
    "blue green big small old man corgi and left right facing snow"
).split()
SPLIT_WORD = "corgi"  # tokenises into two pieces, as rare words do

TEXT_WIDTH = 16
LATENT_CHANNELS = 4


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary is WORDS, letters for the rest, 77 tokens long."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = letters + [letter + "</w>" for letter in letters]
    merges: list[str] = []

    def merge(left: str, right: str) -> str:
        if left + right not in pieces:
            merges.append(f"{left} {right}")
            pieces.append(left + right)
        return left + right

    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        halves = [symbols[:2], symbols[2:]] if word == SPLIT_WORD else [symbols]
        for half in halves:
            functools.reduce(merge, half)
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *pieces]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
        (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        return CLIPTokenizer(
            str(path / "vocab.json"),
            str(path / "merges.txt"),
            model_max_length=77,
            pad_token="<|endoftext|>",
        )


def _text_config(vocabulary: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=TEXT_WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _sharpen(module: torch.nn.Module, factor: float = 3.0) -> None:
    """Make random attention far from uniform, so that who reads whom is clearly visible."""
    for name, parameter in module.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            parameter.data.mul_(factor)
        elif name.endswith(("to_v.weight", "to_out.0.weight")):
            parameter.data.mul_(2.0)


def unet(*, xl: bool = False) -> UNet2DConditionModel:
    """A U-Net with Stable Diffusion's 16 layers, or with SDXL's 70."""
    torch.manual_seed(0)
    common = {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "norm_num_groups": 4,
        "sample_size": 64,
    }
    if xl:
        made = UNet2DConditionModel(
            **common,
            block_out_channels=(8, 8, 16),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(2, 2, 4),
            cross_attention_dim=2 * TEXT_WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        )
    else:
        made = UNet2DConditionModel(
            **common,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=2,
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            attention_head_dim=2,
            cross_attention_dim=TEXT_WIDTH,
        )
    _sharpen(made)
    return made.eval()


def vae() -> AutoencoderKL:
    """A VAE of factor 8 with SD's latent channels and a scaling factor of its own."""
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.18215,
    ).eval()


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's DDIM scheduler."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _sd_parts() -> dict[str, Any]:
    words = tokenizer()
    torch.manual_seed(2)
    return {
        "vae": vae(),
        "text_encoder": CLIPTextModel(_text_config(len(words))).eval(),
        "tokenizer": words,
        "unet": unet(),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }


def _xl_parts() -> dict[str, Any]:
    words = tokenizer()
    torch.manual_seed(2)
    config = _text_config(len(words))
    return {
        "vae": vae(),
        "text_encoder": CLIPTextModel(config).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(config).eval(),
        "tokenizer": words,
        "tokenizer_2": tokenizer(),
        "unet": unet(xl=True),
        "scheduler": scheduler(),
    }


def _controlnet(base: UNet2DConditionModel) -> ControlNetModel:
    torch.manual_seed(3)
    made = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for name, parameter in made.named_parameters():
        # Untrained zero convolutions would hide the condition.
        if "controlnet_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def _quiet(pipeline: Pipeline) -> Pipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd() -> StableDiffusionPipeline:
    return _quiet(StableDiffusionPipeline(**_sd_parts(), requires_safety_checker=False))


def sd_shallow() -> StableDiffusionPipeline:
    """Four layers for what takes time by the layer: down 0 and up 2 to 3 at full size, mid 1 at a
    quarter, where masks by words are read."""
    pipe = sd()
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        sample_size=64,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
    )
    _sharpen(pipe.unet)
    pipe.unet.eval()
    return pipe


def sd_img2img() -> StableDiffusionImg2ImgPipeline:
    return _quiet(StableDiffusionImg2ImgPipeline(**_sd_parts(), requires_safety_checker=False))


def sd_controlnet() -> StableDiffusionControlNetPipeline:
    parts = _sd_parts()
    net = _controlnet(parts["unet"])
    return _quiet(
        StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    )


def sd_adapter() -> StableDiffusionAdapterPipeline:
    torch.manual_seed(4)
    adapter = T2IAdapter(
        in_channels=3,
        channels=[8, 8, 16, 16],
        num_res_blocks=1,
        downscale_factor=8,
        adapter_type="full_adapter",
    )
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return _quiet(
        StableDiffusionAdapterPipeline(
            **_sd_parts(), adapter=adapter.eval(), requires_safety_checker=False
        )
    )


def sdxl() -> StableDiffusionXLPipeline:
    return _quiet(StableDiffusionXLPipeline(**_xl_parts(), add_watermarker=False))


def sdxl_img2img() -> StableDiffusionXLImg2ImgPipeline:
    return _quiet(StableDiffusionXLImg2ImgPipeline(**_xl_parts(), add_watermarker=False))


def sdxl_controlnet() -> StableDiffusionXLControlNetPipeline:
    parts = _xl_parts()
    net = _controlnet(parts["unet"])
    return _quiet(
        StableDiffusionXLControlNetPipeline(**parts, controlnet=net, add_watermarker=False)
    )


def noise(images: int, height: int = 8, width: int = 8, *, seed: int = 0) -> torch.Tensor:
    """The same start noise for every image: (images, channels, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(1, LATENT_CHANNELS, height, width, generator=generator)
    return one.expand(images, -1, -1, -1).clone()


def run(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    *,
    size: tuple[int, int] = (8, 8),
    steps: int = 3,
    guidance: float = 7.5,
    seed: int = 0,
    **options: Any,
) -> torch.Tensor:
    """Final latents (images, channels, height, width) of one pipeline call; size in latents."""
    height, width = size
    copies = int(options.get("num_images_per_prompt", 1))
    options.setdefault("latents", noise(len(prompts) * copies, height, width, seed=seed))
    with torch.no_grad():
        result = pipeline(
            prompts,
            height=8 * height,
            width=8 * width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
            **options,
        )
    return result.images
