"""Means with an interval, from items that may belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Estimate", "bootstrap"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with the ends of its 95 % interval; `count` groups went in."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate | None:
    """Mean of group means with a percentile bootstrap over groups (Efron, 1979); None of nothing.

    The values of a group (one task under several seeds) are not independent, so whole groups are
    drawn.
    """
    means = [sum(values) / len(values) for values in groups if values]
    if not means:
        return None
    values = torch.tensor(means, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(means), (_RESAMPLES, len(means)), generator=generator)
    spread = values[draws].mean(1)
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(mean=float(values.mean()), low=low, high=high, count=len(means))
