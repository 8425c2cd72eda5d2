"""Attention maps of chosen words, read beside a cross-attention layer that runs as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers.hooks.hooks import ModelHook
from diffusers.models.attention_processor import Attention
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CrossAttentionHook", "word_map"]


def word_map(attention: Attention, hidden: Tensor, text: Tensor, tokens: Tensor) -> Tensor:
    """How much each picture token attends to the chosen words: (images, picture tokens), float32.

    `hidden` (images, picture tokens, channels) and `text` (images, words, width) are the layer's
    inputs, `tokens` (images, words) is 1 for chosen words. The softmax runs over all words; heads
    are averaged and chosen words summed.
    """
    layer: Any = attention
    if layer.norm_cross is not None:
        text = layer.norm_encoder_hidden_states(text)
    queries = layer.head_to_batch_dim(layer.to_q(hidden))
    keys = layer.head_to_batch_dim(layer.to_k(text))
    probabilities: Tensor = layer.get_attention_scores(queries, keys)
    per_head = probabilities.reshape(hidden.shape[0], -1, *probabilities.shape[1:])
    return (per_head.float().mean(dim=1) * tokens[:, None, :]).sum(dim=-1)


class CrossAttentionHook(ModelHook):
    """Computes the word map of one cross-attention layer; the layer's own output is untouched.

    Before every denoiser call `active`, `first` (the batch row of image 0 in the branch that
    carries the prompts) and `tokens` (images, words) are set; `map` (images, tokens) is read later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.first = 0
        self.tokens: Tensor | None = None
        self.map: Tensor | None = None

    def pre_forward(self, module: nn.Module, *args: object, **kwargs: object) -> object:
        """Keep the word map and hand the inputs on as they came."""
        if self.active and self.tokens is not None and isinstance(module, Attention):
            hidden: Any = args[0] if args else kwargs["hidden_states"]
            text: Any = args[1] if len(args) > 1 else kwargs["encoder_hidden_states"]
            if isinstance(text, tuple):
                text = text[0]  # IP-Adapter passes (text, image features)
            rows = slice(self.first, self.first + self.tokens.shape[0])
            missing = text.shape[1] - self.tokens.shape[1]
            tokens = functional.pad(self.tokens, (0, missing))
            self.map = word_map(module, hidden[rows], text[rows], tokens)
        return args, kwargs
