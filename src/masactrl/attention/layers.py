"""Where a control can act: the layers that attend to the picture, in execution order.

The paper counts layers as the network runs them: encoder, mid block, decoder. `named_modules()`
lists the mid block last, so the order is rebuilt from the block a layer lives in. One transformer
block (a self-attention plus a cross-attention) is one layer: 16 in Stable Diffusion 1.x and 2.x
(encoder 0-5, mid 6, decoder 7-15), 70 in SDXL (0-23, 24-33, 34-69).

In SD3 and FLUX text and picture attend together, and one block is one layer: 24 in SD3 and SD3.5
medium, 38 in SD3.5 large, 57 in FLUX (double blocks 0-18, single blocks 19-56). The second
attention of SD3.5 medium's first blocks belongs to its block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn

from masactrl.attention.schedule import Place
from masactrl.errors import UnsupportedPipeline

__all__ = ["AttentionLayer", "flux_layers", "sd3_layers", "unet_layers", "unwrap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayer:
    """One layer.

    `index` is its number in execution order (the paper's layer), `name` its module path without any
    compiler prefix, `place` the part of the network it is in, `scale` the factor by which its grid
    is smaller than the latent (1, 2, 4 or 8), `module` the self-attention and `cross` the
    cross-attention of the same transformer block (None where the block has none). In SD3 and FLUX
    `module` is the joint attention and `second` the one over the picture alone that some blocks
    have as well.
    """

    index: int
    name: str
    place: Place
    scale: int
    module: Attention
    cross: Attention | None
    second: Attention | None = None

    @property
    def parts(self) -> tuple[Attention, ...]:
        """The attentions of this layer that read the picture."""
        return (self.module,) if self.second is None else (self.module, self.second)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of this layer's tokens for a latent of `height` x `width`.

        Every halving is a stride-2 convolution with padding, hence the division rounded up.
        """
        return -(-height // self.scale), -(-width // self.scale)


def unwrap(module: nn.Module) -> nn.Module:
    """The module behind the wrapper that `torch.compile` returns, or the module itself."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def unet_layers(network: nn.Module) -> list[AttentionLayer]:
    """All self-attention layers of a U-Net, in the order in which a forward pass runs them.

    Blocks whose first attention reads the text (`only_cross_attention`) are no self-attention
    layers and are left out.
    """
    found: list[AttentionLayer] = []
    for prefix, place, scale, block in _blocks(network):
        for name, module in block.named_modules():
            if not isinstance(module, BasicTransformerBlock) or module.only_cross_attention:
                continue
            cross = None if module.double_self_attention else module.attn2
            found.append(
                AttentionLayer(
                    index=len(found),
                    name=f"{prefix}.{name}.attn1".replace("_orig_mod.", ""),
                    place=place,
                    scale=scale,
                    module=_attention(module.attn1),
                    cross=None if cross is None else _attention(cross),
                )
            )
    return found


def sd3_layers(network: nn.Module) -> list[AttentionLayer]:
    """The joint blocks of SD3; the latents are cut into patches of `patch_size`."""
    config: Any = network.config
    return _joint_layers(network, {"transformer_blocks": "joint"}, int(config.patch_size))


def flux_layers(network: nn.Module) -> list[AttentionLayer]:
    """The double blocks of FLUX, then its single blocks; its pipelines pack 2 x 2 latents."""
    blocks: dict[str, Place] = {
        "transformer_blocks": "joint",
        "single_transformer_blocks": "single",
    }
    return _joint_layers(network, blocks, 2)


def _joint_layers(network: nn.Module, blocks: dict[str, Place], scale: int) -> list[AttentionLayer]:
    found: list[AttentionLayer] = []
    for prefix, place in blocks.items():
        for number, wrapped in enumerate(getattr(network, prefix)):
            block: Any = unwrap(wrapped)
            second = getattr(block, "attn2", None)
            found.append(
                AttentionLayer(
                    index=len(found),
                    name=f"{prefix}.{number}.attn",
                    place=place,
                    scale=scale,
                    # FLUX has an attention class of its own, with the same projections.
                    module=cast("Attention", unwrap(block.attn)),
                    cross=None,
                    second=None if second is None else cast("Attention", unwrap(second)),
                )
            )
    return found


def check_tokens(name: str, tokens: int, wanted: int, what: str) -> None:
    """Refuse a layer that sees another number of tokens than the latents have cells.

    Raises:
        UnsupportedPipeline: something merges or tiles tokens; says what cannot be done with them.
    """
    if tokens != wanted:
        raise UnsupportedPipeline(
            f"The layer {name} sees {tokens} tokens where its part of the latents has {wanted}: "
            f"something merges or tiles them (token merging, HyperTile), and {what} every token in "
            "its place. Take that off the pipeline first."
        )


def _attention(module: nn.Module) -> Attention:
    inner = unwrap(module)
    if not isinstance(inner, Attention):
        raise UnsupportedPipeline(
            f"A transformer block holds a {type(inner).__name__} where diffusers' Attention was "
            "expected. Attach to an unmodified diffusers U-Net."
        )
    return inner


def _blocks(network: nn.Module) -> list[tuple[str, Place, int, nn.Module]]:
    """(path, place, scale, block) of every block in execution order."""
    blocks: list[tuple[str, Place, int, nn.Module]] = []
    scale = 1
    for number, block in enumerate(getattr(network, "down_blocks", ())):
        blocks.append((f"down_blocks.{number}", "encoder", scale, block))
        if getattr(block, "downsamplers", None):
            scale *= 2
    mid = getattr(network, "mid_block", None)
    if mid is not None:
        blocks.append(("mid_block", "mid", scale, mid))
    for number, block in enumerate(getattr(network, "up_blocks", ())):
        blocks.append((f"up_blocks.{number}", "decoder", scale, block))
        if getattr(block, "upsamplers", None):
            scale //= 2
    return blocks
