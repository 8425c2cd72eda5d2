"""Cross-attention whose probabilities are edited: the one seam below a whole layer.

The layer runs as it is, with whatever processor it carries. Beside it the probabilities of sources
and targets are computed once more, edited, and the targets' rows of the output are replaced. So all
other rows keep every bit, and nothing of the layer is displaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import Tensor

from masactrl.attention.control_hooks import CallContext, ControlHook
from masactrl.attention.layers import AttentionLayer, unwrap
from masactrl.errors import UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

__all__ = ["CrossHook", "Edit", "check_cross", "output_of", "probabilities"]

_PLAIN = (AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)


class Edit(Protocol):
    """What happens to the probabilities of one layer.

    `source` and `target` are M_s and M of one target, (heads, picture tokens, words); returns M*,
    or None to leave the target as it is. `pair` is the target's number among the targets.
    """

    def __call__(
        self, context: CallContext, layer: AttentionLayer, pair: int, source: Tensor, target: Tensor
    ) -> Tensor | None:
        """M* for one target."""
        ...


def check_cross(layers: Sequence[AttentionLayer]) -> None:
    """Refuse cross-attention layers whose output is more than A(Q, K, V) of the words."""
    for layer in layers:
        cross: Any = layer.cross
        if not isinstance(cross.processor, _PLAIN):
            raise UnsupportedPipeline(
                f"The cross-attention beside {layer.name} has the processor "
                f"{type(cross.processor).__name__}, which adds to the attention to the words (an "
                "IP-Adapter does) and cannot be edited. Unload it first."
            )
        parts = ("group_norm", "spatial_norm", "norm_q", "norm_k")
        if cross.residual_connection or any(getattr(cross, p, None) is not None for p in parts):
            raise UnsupportedPipeline(
                f"The cross-attention beside {layer.name} normalises or adds its input itself, "
                "which Stable Diffusion's does not; it cannot be edited."
            )


def probabilities(layer: Any, hidden: Tensor, text: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)): (rows, heads, picture tokens, words)."""
    if layer.norm_cross is not None:
        text = layer.norm_encoder_hidden_states(text)
    queries = layer.head_to_batch_dim(layer.to_q(hidden))
    keys = layer.head_to_batch_dim(layer.to_k(text))
    scores: Tensor = layer.get_attention_scores(queries, keys)
    probs: Tensor = scores.reshape(hidden.shape[0], -1, *scores.shape[1:])
    return probs


def output_of(layer: Any, probs: Tensor, text: Tensor) -> Tensor:
    """The layer's output (rows, picture tokens, channels) for given probabilities."""
    if layer.norm_cross is not None:
        text = layer.norm_encoder_hidden_states(text)
    values = layer.head_to_batch_dim(layer.to_v(text))
    mixed = layer.batch_to_head_dim(probs.flatten(0, 1).to(values) @ values)
    out: Tensor = layer.to_out[1](layer.to_out[0](mixed))
    scaled: Tensor = out / layer.rescale_output_factor
    return scaled


class CrossHook(ControlHook):
    """Edits one cross-attention layer; `pairs` are (target, source) images of a branch.

    Only the branch that carries the prompts, the last one, is edited.
    """

    def __init__(self, layer: AttentionLayer, pairs: Sequence[tuple[int, int]], edit: Edit) -> None:
        super().__init__(layer.index)
        self.attention_layer = layer
        self._pairs, self._edit = pairs, edit

    def new_forward(self, module: nn.Module, *args: object, **kwargs: object) -> object:
        """The layer's output with the targets' conditional rows edited."""
        chain: Any = self.fn_ref
        output: Tensor = chain.original_forward(*args, **kwargs)
        rows = self.context.rows
        if rows is None or not self.context.acting:
            return output
        self.seen = True
        hidden, text = _inputs(self.attention_layer, args, kwargs)
        layer: Any = unwrap(module)
        first = (rows.branches - 1) * rows.images
        images = sorted({image for pair in self._pairs for image in pair})
        batch = [first + image for image in images]
        found = probabilities(layer, hidden[batch], text[batch])
        maps = dict(zip(images, found, strict=True))
        edited: Tensor | None = None
        for number, (target, source) in enumerate(self._pairs):
            made = self._edit(
                self.context, self.attention_layer, number, maps[source], maps[target]
            )
            if made is None:
                continue
            edited = output.clone() if edited is None else edited
            row = slice(first + target, first + target + 1)
            edited[row] = output_of(layer, made[None], text[row]).to(output.dtype)
        return output if edited is None else edited


def _inputs(
    layer: AttentionLayer, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Tensor, Tensor]:
    """Hidden states and text of a cross-attention call without a mask."""
    hidden: Any = args[0] if args else kwargs["hidden_states"]
    text: Any = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
    mask = args[2] if len(args) > 2 else kwargs.get("attention_mask")
    if not isinstance(text, Tensor) or mask is not None:
        raise UnsupportedPipeline(
            f"The cross-attention beside {layer.name} was called with a mask or with more than the "
            "text, so its probabilities are not those of the words alone."
        )
    return hidden, text
