"""Where a token looks, written out literally, for comparison only.

What a layer projects is taken from its `to_q` and `to_k` while a control runs; the softmax is done
number by number. Shares nothing with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn


class Projections:
    """All that leaves one layer's `to_q` and `to_k`, call by call."""

    def __init__(self, attention: nn.Module) -> None:
        self.q: list[Tensor] = []
        self.k: list[Tensor] = []
        self._handles = [
            getattr(attention, name).register_forward_hook(self._keeper(kept))
            for name, kept in (("to_q", self.q), ("to_k", self.k))
        ]

    @staticmethod
    def _keeper(kept: list[Tensor]) -> Callable[..., None]:
        return lambda _module, _inputs, output: kept.append(output.detach().clone())

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def where(q: Tensor, k: Tensor, heads: int, allowed: list[bool] | None = None) -> list[float]:
    """One weight per key, for one query (channels) and its keys (n, channels)."""
    width = q.shape[0] // heads
    total = [0.0] * k.shape[0]
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        query = q[part].tolist()
        scores = []
        for n, key in enumerate(k[:, part].tolist()):
            score = sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(width)
            scores.append(score if allowed is None or allowed[n] else -math.inf)
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        for n, power in enumerate(powers):
            total[n] += power / sum(powers) / heads
    return total
