r"""Where the keys that a target reads of its source stand: position policies of rotary embeddings.

A rotary embedding turns every pair of channels of a token's query and key by R(p), p its place, so
that a score depends on the distance: q^T R(p_j - p_i) k. Keys of a source stand at the same places
as the target's own, and the fast pairs pull every token of the target to the source's token at its
own place: poses freeze. With K_s as the source's keys, read at step s:

    same      R(p_j) K_s,j                    as the source sees itself; exact, no arithmetic at all
    none      R(0) K_s,j                      at the origin, where FLUX keeps its text; exact
    damped    R(p_j) D K_s,j                  D scales the fast pairs; exact, D commutes with R
    matched   R(p_m(j)) K_s,j                 at the place of the target's token m(j) that
                                              corresponds; exact, but m is an estimate:
                                              m(j) = argmax_i cos(h_i, h_s,j), features h of one
                                              layer at the step before

Exact means equal to attention computed with those places, up to rounding: keys are turned by the
difference before the layer turns them, and rotations compose, R(p) R(p' - p) = R(p'). SD3 adds
learned positions to its tokens once, before the first layer; it has `same` alone.

The policies follow what was published: keys at matched places (CharaConsist), high frequencies
damped (Untwisting RoPE, arXiv 2602.05013), the positional term modulated (SynPS, arXiv 2512.14423).
Formulas and defaults are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from masactrl.errors import ConfigError
from masactrl.settings.checks import settle
from masactrl.settings.shared import PositionPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Policy", "Positions", "Rotary", "correspondences", "damping_of", "turned"]

Policy = PositionPolicy
Rotary = tuple[Tensor, Tensor]
"""Cosines and sines (tokens, d) of the places of the picture's tokens, pairs side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """A position policy with what belongs to it.

    `policy` is one of the four above. `damping` in [0, 1] is the factor of the damped pairs and
    `reach` (tokens, above 0) says which: pairs that turn once within that distance. `layer` is the
    one whose features are matched (None: the middle one). Raises `ConfigError`.
    """

    policy: Policy = "same"
    damping: float = 0.3
    reach: float = 16.0
    layer: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        if self.policy not in get_args(Policy):
            raise ConfigError(
                f"positions={self.policy!r} was given; accepted are {', '.join(get_args(Policy))}."
            )
        if not 0.0 <= self.damping <= 1.0:
            raise ConfigError(f"damping={self.damping} was given; accepted is 0 to 1.")
        if not self.reach > 0.0:
            raise ConfigError(f"reach={self.reach} was given; accepted is a distance above 0.")

    @classmethod
    def of(cls, given: Positions | Policy | None) -> Positions:
        """The policy itself, one of that name with the usual values, or `same`."""
        if isinstance(given, Positions):
            return given
        return cls() if given is None else cls(policy=given)


def damping_of(positions: Positions, axes: Sequence[int], theta: float) -> Tensor:
    """The diagonal of D, (d,): `damping` for pairs that turn once within `reach`, 1 for others.

    `axes` are the channels of each axis; the first is no place in the picture and is left alone.
    Pair m of n / 2 on an axis turns by theta^(-2m / n) from token to token.
    """
    factors = [torch.ones(axes[0])]
    for channels in axes[1:]:
        speed = theta ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        fast = 2 * math.pi / speed < positions.reach
        factors.append(torch.where(fast, positions.damping, 1.0).repeat_interleave(2).float())
    return torch.cat(factors)


def turned(
    keys: Tensor,
    positions: Positions,
    rotary: Rotary,
    *,
    factors: Tensor | None = None,
    match: Tensor | None = None,
) -> Tensor:
    """Keys (rows, tokens, heads, d), turned so that the layer's R(p) leaves them where they belong.

    `factors` (d,) are those of `damping_of`; `match` (rows, tokens) is m, or None before there is
    one, when keys stay where they are.
    """
    cos, sin = rotary
    if positions.policy == "damped" and factors is not None:
        return (keys.float() * factors.to(keys.device)).to(keys.dtype)
    if positions.policy == "none":
        return _rotated(keys, cos[None], -sin[None])
    if positions.policy == "matched" and match is not None:
        # cos and sin of p_m - p
        there, then = cos[match], sin[match]
        return _rotated(keys, there * cos + then * sin, then * cos - there * sin)
    return keys


def _rotated(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (a, b) of channels to (a cos - b sin, b cos + a sin); cos, sin (rows, tokens, d)."""
    a, b = keys.float().unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-b, a], dim=-1).flatten(-2)
    return (keys.float() * cos[:, :, None] + crossed * sin[:, :, None]).to(keys.dtype)


def correspondences(source: Tensor, target: Tensor) -> Tensor:
    """M (source tokens,): for every token of the source the target's token most like it.

    Both are features (tokens, channels); alike is the cosine of the angle between them.
    """
    unit = [
        features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        for features in (source.float(), target.float())
    ]
    alike: Tensor = unit[0] @ unit[1].T
    return alike.argmax(dim=-1)
