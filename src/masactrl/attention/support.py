"""What can be controlled: pipelines, layers and processors, and a sentence for what can't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import (
    FusedAttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
)
from torch import nn

from masactrl.attention.layers import Site, unwrap
from masactrl.errors import UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_layers", "denoiser_of"]

_OFFERED = "Stable Diffusion 1.x, 2.x and XL pipelines, also with ControlNet or T2I-Adapter"


def denoiser_of(pipeline: DiffusionPipeline) -> nn.Module:
    """The U-Net of a pipeline, possibly wrapped by `torch.compile`.

    Raises `UnsupportedPipeline` for pipelines without one.
    """
    kind = type(pipeline).__name__
    unet = getattr(pipeline, "unet", None)
    transformer = getattr(pipeline, "transformer", None)
    if unet is None and transformer is not None:
        raise UnsupportedPipeline(
            f"{kind} denoises with a transformer ({type(transformer).__name__}), whose "
            f"attention mixes text and image and is not supported yet. Use one of {_OFFERED}."
        )
    if not isinstance(unet, nn.Module) or getattr(pipeline, "scheduler", None) is None:
        raise UnsupportedPipeline(
            f"{kind} has no U-Net with a scheduler to control. Attach to a diffusers pipeline: "
            f"{_OFFERED}."
        )
    if not isinstance(unwrap(unet), UNet2DConditionModel):
        raise UnsupportedPipeline(
            f"{kind} denoises with a {type(unwrap(unet)).__name__}; accepted is diffusers' "
            f"UNet2DConditionModel, as in {_OFFERED}."
        )
    return unet


def check_layers(sites: Iterable[Site]) -> None:
    """Refuse layers on which "keys and values from other hidden states" would not be exact."""
    for site in sites:
        processor = site.module.processor
        if isinstance(processor, FusedAttnProcessor2_0):
            raise UnsupportedPipeline(
                f"The projections of {site.name} are fused, so its keys and values cannot be read "
                "from another image. Call pipeline.unfuse_qkv_projections() before attaching."
            )
        if isinstance(
            processor, (PAGIdentitySelfAttnProcessor2_0, PAGCFGIdentitySelfAttnProcessor2_0)
        ):
            raise UnsupportedPipeline(
                f"Perturbed-attention guidance replaces the self-attention of {site.name}, which "
                "the schedule wants to control. Choose other pag_applied_layers or other layers."
            )
        for part in ("group_norm", "spatial_norm", "norm_cross"):
            if getattr(site.module, part, None) is not None:
                raise UnsupportedPipeline(
                    f"{site.name} normalises its input inside the attention ({part}), so other "
                    "hidden states would not give the same keys. Leave this layer out."
                )
