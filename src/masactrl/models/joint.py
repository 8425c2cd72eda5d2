"""What the pipelines of SD3 and FLUX do around their transformer, as tensors.

    SD3    latents (n, c, h, w), timestep 1000 s, text of two CLIPs and T5 one after the other, the
           CLIPs' pooled outputs side by side; two branches of guidance
    FLUX   latents packed into (n, h/2 * w/2, 4c) tokens with their places, timestep s, text of T5,
           the pooled output of CLIP; guidance is a number that the network reads, or nothing

Outside this file latents are (n, c, h, w) for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.layers import unwrap
from masactrl.attention.networks import network_of
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "call_transformer",
    "check_guidance",
    "check_size",
    "encode_words",
    "is_flux",
    "latent_channels",
    "longest_text",
    "multiple_of",
    "packed",
    "reads_guidance",
    "text_length",
    "unpacked",
]

_T5_TOKENS = 256
_T5_TOKENS_OF_DEV = 512


def is_flux(pipeline: Any) -> bool:
    """Whether the pipeline is one of FLUX."""
    return network_of(pipeline)[0].name == "flux"


def config_of(pipeline: Any) -> Any:
    """The configuration of the pipeline's U-Net or transformer."""
    network: Any = unwrap(network_of(pipeline)[1])
    return network.config


def latent_channels(pipeline: Any) -> int:
    """Channels of the latents that the network takes, unpacked."""
    channels = int(config_of(pipeline).in_channels)
    return channels // 4 if is_flux(pipeline) else channels


def multiple_of(pipeline: Any) -> int:
    """Of how many pixels the sides of a picture are a multiple."""
    factor = int(pipeline.vae_scale_factor)
    return 2 * factor if network_of(pipeline)[0].joint else factor


def check_size(pipeline: Any, height: int, width: int) -> None:
    """Refuse sides in pixels that the network has no whole patches for; `ConfigError`."""
    step = multiple_of(pipeline)
    if height % step or width % step:
        raise ConfigError(
            f"{width} x {height} pixels were asked for; {type(pipeline).__name__} makes pictures "
            f"whose sides are multiples of {step}, such as {max(width // step, 1) * step} x "
            f"{max(height // step, 1) * step}."
        )


def reads_guidance(pipeline: Any) -> bool:
    """Whether the network is called once, being told the guidance as a number (LCM, FLUX)."""
    if is_flux(pipeline):
        return True
    return getattr(config_of(pipeline), "time_cond_proj_dim", None) is not None


def check_guidance(pipeline: Any, scale: float, negative_prompt: str | None) -> None:
    """Refuse guidance and a negative prompt that a run would take no notice of; `ConfigError`."""
    if negative_prompt and (scale == 1 or reads_guidance(pipeline)):
        told = "this model is told its guidance as a number instead; leave it out"
        none = "guidance is off (scale 1); leave it out, or give a scale above 1"
        raise ConfigError(
            "A negative prompt is what guidance leads away from, and "
            f"{told if reads_guidance(pipeline) else none}."
        )
    if is_flux(pipeline) and scale != 1 and not config_of(pipeline).guidance_embeds:
        raise ConfigError(
            f"A guidance scale of {scale:g} was asked for, and this FLUX was distilled to do "
            "without (schnell); leave it out, or give 1."
        )


def text_length(pipeline: Any) -> int:
    """How many tokens of T5 a prompt has: 256 in SD3 and FLUX schnell, 512 in FLUX dev."""
    dev = is_flux(pipeline) and config_of(pipeline).guidance_embeds
    return _T5_TOKENS_OF_DEV if dev else _T5_TOKENS


def longest_text(pipeline: Any) -> tuple[Any, int]:
    """Return the tokenizer that reads most of a prompt, and how many tokens that is."""
    t5 = getattr(pipeline, "tokenizer_2" if is_flux(pipeline) else "tokenizer_3", None)
    if network_of(pipeline)[0].joint and t5 is not None:
        return t5, text_length(pipeline)
    return pipeline.tokenizer, int(pipeline.tokenizer.model_max_length)


def encode_words(
    pipeline: Any, prompts: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return text (rows, words, width) and pooled text (rows, width) of prompts."""
    options = {
        "device": device,
        "num_images_per_prompt": 1,
        "max_sequence_length": text_length(pipeline),
    }
    said = list(prompts)
    if is_flux(pipeline):
        hidden, pooled, _ = pipeline.encode_prompt(prompt=said, prompt_2=None, **options)
        return hidden, pooled
    hidden, _, pooled, _ = pipeline.encode_prompt(
        prompt=said, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, **options
    )
    return hidden, pooled


def packed(pipeline: Any, z: Tensor) -> Tensor:
    """Latents (n, c, h, w) as the pipeline's call takes them."""
    if not is_flux(pipeline):
        return z
    tokens: Tensor = pipeline._pack_latents(z, *z.shape)
    return tokens


def unpacked(pipeline: Any, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents (n, c, h, w) of what the pipeline's call has; ``size`` is (h, w)."""
    if not is_flux(pipeline):
        return tokens
    factor = int(pipeline.vae_scale_factor)
    height, width = (side * factor for side in size)
    z: Tensor = pipeline._unpack_latents(tokens, height, width, factor)
    return z


def call_transformer(
    pipeline: Any, z: Tensor, timestep: float, text: tuple[Tensor, Tensor], scale: Tensor | None
) -> Tensor:
    """Return what the transformer says about latents (rows, c, h, w), of their shape.

    Args:
        pipeline: of SD3 or FLUX.
        z: latents, on the network's device and in its precision.
        timestep: 1000 s, as the scheduler lists it.
        text: hidden (rows, words, width) and pooled (rows, width) text.
        scale: (rows,) guidance, for networks that read it.
    """
    network: Any = pipeline.transformer
    hidden, pooled = text
    times = torch.full((len(z),), float(timestep), dtype=torch.float32, device=z.device)
    given: dict[str, Any] = {
        "encoder_hidden_states": hidden,
        "pooled_projections": pooled,
        "return_dict": False,
    }
    if not is_flux(pipeline):
        output: Tensor = network(hidden_states=z, timestep=times, **given)[0]
        return output
    rows, _, height, width = z.shape
    if config_of(pipeline).guidance_embeds:
        told = torch.ones(rows, device=z.device) if scale is None else scale
        given["guidance"] = told.to(z.device, torch.float32)
    places = pipeline._prepare_latent_image_ids(rows, height // 2, width // 2, z.device, z.dtype)
    said = network(
        hidden_states=packed(pipeline, z),
        timestep=times.to(z.dtype) / 1000,
        img_ids=places,
        txt_ids=torch.zeros(hidden.shape[1], 3, device=z.device, dtype=z.dtype),
        **given,
    )[0]
    return unpacked(pipeline, said, (height, width))
