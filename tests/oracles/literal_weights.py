"""Weighted prompts after compel 2.5.1, `EmbeddingsProvider`, written down anew token by token.

`get_embeddings_for_weighted_prompt_fragments`, downweight mode MASK, with truncation: every part is
tokenised by itself; the embeddings are moved away from those of no words by the weights; parts with
less weight than 1 are then blended with embeddings of the prompt in which they are masked out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Encode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def last_hidden(encoder: Any) -> Encode:
    """SD: the last hidden states, behind the last norm."""

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return encoder(ids, attention_mask=mask).last_hidden_state

    return encode


def penultimate(encoder: Any) -> Encode:
    """SDXL: the hidden states before the last layer, without a norm."""

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]

    return encode


@torch.no_grad()
def weighted(tokenizer: Any, encode: Encode, parts: Sequence[tuple[str, float]]) -> torch.Tensor:
    """(1, 77, width) of the parts (text, weight)."""
    longest = tokenizer.model_max_length
    ids, weights, whose = [], [], []
    for number, (text, weight) in enumerate(parts):
        own = tokenizer(text, add_special_tokens=False).input_ids
        ids += own
        weights += [weight] * len(own)
        whose += [number] * len(own)
    ids = [tokenizer.bos_token_id, *ids[: longest - 2], tokenizer.eos_token_id]
    weights, whose = [1.0, *weights[: longest - 2], 1.0], [-1, *whose[: longest - 2], -1]
    padding = longest - len(ids)
    ids += [tokenizer.pad_token_id] * padding
    weights += [1.0] * padding
    whose += [-1] * padding

    nothing = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    nothing += [tokenizer.pad_token_id] * (longest - 2)
    everything = torch.ones(1, longest, dtype=torch.long)
    z_0 = encode(torch.tensor([nothing]), everything)

    def scaled(mask: torch.Tensor) -> torch.Tensor:
        z = encode(torch.tensor([ids]), mask)
        return z_0 + (z - z_0) * torch.tensor(weights)[None, :, None]

    summed, total = scaled(everything), 1.0
    for number, (_, weight) in enumerate(parts):
        if weight < 1 and number in whose:
            mask = torch.tensor([[int(one != number) for one in whose]])
            t = math.tan((1 - max(weight, 1e-5)) * math.pi / 2)
            summed = summed + t * scaled(mask)
            total += t
    return summed / total
