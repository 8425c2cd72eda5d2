"""The embedded Stable Diffusion: real classes at small size, in SD 1.x's layout."""

from __future__ import annotations

from typing import Final

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

#: SD 1.x's latent scale; the autoencoder's weights absorb it: scaled latents have unit variance.
SCALING_FACTOR: Final = 0.18215
LATENT_CHANNELS: Final = 16
PICTURE_SIZE: Final = 256
VAE_FACTOR: Final = 8
TEXT_WIDTH: Final = 192


def build_vae() -> AutoencoderKL:
    """A 3M-parameter KL autoencoder, factor 8, that spends little at full resolution.

    No mid-block attention: the network is convolutional throughout and can be trained on crops.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=PICTURE_SIZE,
        scaling_factor=SCALING_FACTOR,
        force_upcast=False,
    )


def build_text_encoder(vocab_size: int, bos: int, eos: int) -> CLIPTextModel:
    """A small CLIP text tower: 77 causal positions, two layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def build_unet() -> UNet2DConditionModel:
    """SD 1.x's U-Net (16 self-attention layers: down 0-5, mid 6, up 7-15) at small width."""
    return UNet2DConditionModel(
        sample_size=PICTURE_SIZE // VAE_FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=(
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        up_block_types=(
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ),
        block_out_channels=(64, 128, 160, 160),
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # SD 1.x's convention: this names the number of heads
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """SD 1.x's noise schedule, stepped from its very end.

    Spacing "trailing": the first step is at t = 999, where least of the picture is left in the
    noise. "leading" begins 20 steps at t = 951, and pure noise there looks to the network like the
    lowest frequencies of a layout: 21 % close-ups nobody asked for, against 4 %.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="trailing",
    )
