"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): away from u, towards c.

eps = u + scale * (c - u)

The scale may differ from image to image of one batch: a source is inverted and replayed with its
own, a target is made with the user's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["guided", "guided_steps"]


def guided(u: Tensor, c: Tensor, scale: Tensor | float) -> Tensor:
    """Return the guided prediction.

    Args:
        u: unconditional prediction (images, channels, height, width).
        c: conditional prediction of the same shape.
        scale: one number, or one per image (images, 1, 1, 1); 1 gives `c`, 0 gives `u`.
    """
    return u + scale * (c - u)


def guided_steps(steps: int, begin: float, end: float) -> range:
    """Return the steps of a run that lie in a part of it: k with begin <= k / steps < end.

    Args:
        steps: N, at least 1.
        begin, end: shares of the run, 0 (noisiest) to 1.
    """
    # The small slack keeps 0.08 * 50 at 4 whatever the last binary digit.
    return range(math.ceil(begin * steps - 1e-9), math.ceil(end * steps - 1e-9))
