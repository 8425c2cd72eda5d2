"""Tiny random-weight pipelines of SD3 and FLUX, of the real diffusers classes, built offline.

SD3 has four joint blocks; with dual attention (SD3.5 medium) its first two have a second attention
over the picture alone. FLUX has two double and four single blocks. Random weights prove equalities.
"""

from __future__ import annotations

from typing import Any

import tiny_models
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_models import (
    LATENT_CHANNELS,
    TEXT_WIDTH,
    WORDS,
    _quiet,
    _sharpen,
    _text_config,
    tokenizer,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

T5_WIDTH = 2 * TEXT_WIDTH
SD3_LAYERS = 4
FLUX_DOUBLE, FLUX_SINGLE = 2, 4


def t5_tokenizer() -> T5TokenizerFast:
    """T5's tokenizer whose vocabulary is WORDS, letters for the rest."""
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), "▁"]
    pieces += [chr(code) for code in range(33, 127)]
    scores = [(piece, 0.0 if place < 3 else -float(place)) for place, piece in enumerate(pieces)]
    return T5TokenizerFast(vocab=scores, extra_ids=0, model_max_length=512)


def _t5(vocabulary: int) -> T5EncoderModel:
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def _vae() -> AutoencoderKL:
    """SD's tiny VAE with a shift, as those of SD3 and FLUX have, and without their quant layers."""
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def sd3_transformer(*, dual: bool = False) -> SD3Transformer2DModel:
    """Four joint blocks of width 16; with ``dual`` as SD3.5 medium: normed, two dual blocks."""
    torch.manual_seed(0)
    made = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=SD3_LAYERS,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=24,
        dual_attention_layers=(0, 1) if dual else (),
        qk_norm="rms_norm" if dual else None,
    )
    _sharpen(made)
    return made.eval()


def flux_transformer(*, guidance: bool = True) -> FluxTransformer2DModel:
    """Two double and four single blocks of width 16; ``guidance`` as FLUX.1-dev, not schnell."""
    torch.manual_seed(0)
    made = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=FLUX_DOUBLE,
        num_single_layers=FLUX_SINGLE,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    )
    _sharpen(made)
    return made.eval()


def sd3(*, dual: bool = False, t5: bool = True) -> StableDiffusion3Pipeline:
    words, words_3 = tokenizer(), t5_tokenizer()
    torch.manual_seed(2)
    config = _text_config(len(words))
    return _quiet(
        StableDiffusion3Pipeline(
            transformer=sd3_transformer(dual=dual),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(),
            text_encoder=CLIPTextModelWithProjection(config).eval(),
            tokenizer=words,
            text_encoder_2=CLIPTextModelWithProjection(config).eval(),
            tokenizer_2=tokenizer(),
            text_encoder_3=_t5(len(words_3)) if t5 else None,
            tokenizer_3=words_3 if t5 else None,
        )
    )


def flux(*, guidance: bool = True) -> FluxPipeline:
    words, words_2 = tokenizer(), t5_tokenizer()
    torch.manual_seed(2)
    return _quiet(
        FluxPipeline(
            transformer=flux_transformer(guidance=guidance),
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0,
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=4096,
            ),
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(len(words))).eval(),
            tokenizer=words,
            text_encoder_2=_t5(len(words_2)),
            tokenizer_2=words_2,
        )
    )


def noise(pipeline: Any, images: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """The same start noise for every image, packed where the pipeline packs its latents."""
    made = tiny_models.noise(images, height, width, seed=seed)
    if isinstance(pipeline, FluxPipeline):
        made = pipeline._pack_latents(made, images, LATENT_CHANNELS, height, width)
    return made


def run(
    pipeline: Any,
    prompts: list[str],
    *,
    size: tuple[int, int] = (8, 8),
    steps: int = 3,
    guidance: float = 4.0,
    seed: int = 0,
    **options: Any,
) -> torch.Tensor:
    """Final latents of one pipeline call, packed by FLUX; size in latents, even numbers."""
    height, width = size
    copies = int(options.get("num_images_per_prompt", 1))
    given = noise(pipeline, len(prompts) * copies, height, width, seed=seed)
    options.setdefault("latents", given)
    with torch.no_grad():
        result = pipeline(
            prompts,
            height=8 * height,
            width=8 * width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=options.pop("max_sequence_length", 10),
            output_type="latent",
            **options,
        )
    return result.images
