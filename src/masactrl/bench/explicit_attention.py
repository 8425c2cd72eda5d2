"""Attention written out with the whole matrix of probabilities, to measure ourselves against.

    A(Q, K, V) = softmax(Q K^T / sqrt(d)) V          targets read K_s, V_s of the source

Nothing of the package's own control runs through here; see `masactrl.bench.attention_cost`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Explicit"]


class Explicit:
    """An attention processor of diffusers for one source and one target.

    Rows are [source, target] for every guidance branch.

    Args:
        edit: whether targets read the source's keys and values.
        twice: compute the layer's own attention before, for nothing, and keep its matrices until
            the edit, branch by branch, is done: what the paper's code does where it controls.
    """

    def __init__(self, *, edit: bool, twice: bool = False) -> None:
        self._edit, self._twice = edit, twice

    def __call__(
        self,
        attn: Any,  # diffusers' Attention
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_options: object,
    ) -> Tensor:
        """(rows, tokens, channels) to the same shape."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if not self._edit:
            return _projected(attn, _attention(attn, q, k, v)[0])
        thrown_away = _attention(attn, q, k, v) if self._twice else None
        of_source = (x.unflatten(0, (-1, 2))[:, :1].expand(-1, 2, -1, -1) for x in (k, v))
        k, v = (x.flatten(0, 1) for x in of_source)
        branches = q.shape[0] // 2 if self._twice else 1
        parts = zip(q.chunk(branches), k.chunk(branches), v.chunk(branches), strict=True)
        out = torch.cat([_attention(attn, *part)[0] for part in parts])
        del thrown_away
        return _projected(attn, out)


def _attention(attn: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output (rows * heads, tokens, width of a head), scores and probabilities, each in full."""
    q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
    scores = torch.einsum("bid,bjd->bij", q, k) * attn.scale
    probabilities = scores.softmax(dim=-1)
    return torch.einsum("bij,bjd->bid", probabilities, v), scores, probabilities


def _projected(attn: Any, out: Tensor) -> Tensor:
    projected: Tensor = attn.to_out[0](attn.batch_to_head_dim(out))
    return projected
