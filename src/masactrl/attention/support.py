"""What can be controlled: pipelines, layers and processors, and a sentence for what can't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import (
    FusedAttnProcessor2_0,
    FusedJointAttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGCFGJointAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
    PAGJointAttnProcessor2_0,
)
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import nn

from masactrl.attention.layers import AttentionLayer, unwrap
from masactrl.attention.networks import network_of
from masactrl.errors import UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_layers", "denoiser_of"]

_PERTURBED = (
    PAGIdentitySelfAttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGJointAttnProcessor2_0,
    PAGCFGJointAttnProcessor2_0,
)


def denoiser_of(pipeline: DiffusionPipeline) -> nn.Module:
    """The U-Net of a pipeline, possibly wrapped by `torch.compile`, for what needs one.

    Raises `UnsupportedPipeline` for pipelines without one.
    """
    family, network = network_of(pipeline)
    if family.joint:
        raise UnsupportedPipeline(
            f"{type(pipeline).__name__} denoises with a transformer "
            f"({type(unwrap(network)).__name__}), whose attention mixes text and picture; this "
            "needs a U-Net, as in Stable Diffusion 1.x, 2.x and XL. Mutual self-attention "
            "(MasaCtrl) works with both."
        )
    return network


def check_layers(layers: Iterable[AttentionLayer]) -> None:
    """Refuse layers on which "keys and values from other hidden states" would not be exact."""
    for layer in layers:
        for module in layer.parts:
            _check(layer, module)


def _check(layer: AttentionLayer, module: Any) -> None:
    processor = module.processor
    if isinstance(processor, (FusedAttnProcessor2_0, FusedJointAttnProcessor2_0)) or (
        # The other classes keep the flag when they are unfused.
        isinstance(module, FluxAttention) and module.fused_projections
    ):
        owner = "pipeline" if layer.cross is not None else "pipeline.transformer"
        raise UnsupportedPipeline(
            f"The projections of {layer.name} are fused, so its keys and values cannot be read "
            f"from another image. Call {owner}.unfuse_qkv_projections() before attaching."
        )
    if isinstance(processor, _PERTURBED):
        raise UnsupportedPipeline(
            f"Perturbed-attention guidance replaces the self-attention of {layer.name}, which "
            "the schedule wants to control. Choose other pag_applied_layers or other layers."
        )
    for part in ("group_norm", "spatial_norm", "norm_cross"):
        if getattr(module, part, None) is not None:
            raise UnsupportedPipeline(
                f"{layer.name} normalises its input inside the attention ({part}), so other "
                "hidden states would not give the same keys. Leave this layer out."
            )
