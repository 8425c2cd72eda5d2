r"""Where a token of a target looks in its source, read beside the controlled layers.

    a = mean over heads of softmax(q K_s^T / sqrt(d))

    q      query of one token of the target, as the layer projects it
    K_s    keys of its source: same layer, same step, last guidance branch (that of the prompts)
    a      one weight per token of the source; with the union form the softmax also runs over the
           target's own keys, and with masks over the allowed keys only, as in the layer itself

`masactrl.attention.capture` collects the queries and keys; what is here only calculates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from masactrl.errors import ConfigError, ScheduleError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AttentionMap", "AttentionRecord", "QueryKeys", "attention_row", "listed"]


def attention_row(query: Tensor, keys: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Mean over heads of softmax(q K^T / sqrt(d)), in float32.

    `query` is (heads, d), `keys` (heads, n, d), `allowed` (n) booleans or None; returns (n), which
    sums to 1. Without any allowed key all weigh the same, as in the layer.
    """
    scores = (keys.float() @ query.float()[:, :, None])[:, :, 0] / query.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights: Tensor = scores.softmax(dim=-1).mean(dim=0)
    return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMap:
    """Where one token looked.

    `map` (h, w), float32, is the weight of every token of the source, not negative; it sums to 1,
    or to less in the union form, where the rest went to the target itself. `steps` and `layers` are
    those that it is the mean of.
    """

    map: Tensor
    steps: tuple[int, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryKeys:
    """One target at one step in one layer, on the CPU.

    `grid` is (h, w) of the tokens, `queries` (heads, h w, d) the target's, `keys` (heads, n, d) the
    source's, then, in the union form, the target's own. `mask` (h w) and `key_mask` (n) are the
    foregrounds, booleans, or None.
    """

    grid: tuple[int, int]
    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    key_mask: Tensor | None

    def look(self, point: tuple[float, float]) -> Tensor:
        """The map (h, w) over the source for the token under a point (x, y), parts of the size."""
        rows, columns = self.grid
        token = int(point[1] * rows) * columns + int(point[0] * columns)
        allowed = None
        if self.mask is not None and self.key_mask is not None:
            allowed = self.key_mask == self.mask[token]
        weights = attention_row(self.queries[:, token], self.keys, allowed)
        return weights[: rows * columns].reshape(rows, columns)


class AttentionRecord:
    """What was captured of the latest run: queries and keys by (step, layer), target by target."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[QueryKeys, ...]] = {}

    @property
    def steps(self) -> tuple[int, ...]:
        """The captured steps."""
        return tuple(sorted({step for step, _ in self._seen}))

    @property
    def layers(self) -> tuple[int, ...]:
        """The captured layers."""
        return tuple(sorted({layer for _, layer in self._seen}))

    @property
    def targets(self) -> int:
        """How many targets the run had."""
        return len(next(iter(self._seen.values()), ()))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        every = [one for seen in self._seen.values() for one in seen]
        held = {id(t): t for one in every for t in (one.queries, one.keys)}  # keys may be shared
        return sum(tensor.numel() * tensor.element_size() for tensor in held.values())

    def keep(self, step: int, layer: int, seen: Sequence[QueryKeys]) -> None:
        """Keep one layer call: one entry per target, in order."""
        self._seen[step, layer] = tuple(seen)

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()

    def look(
        self,
        point: tuple[float, float],
        *,
        target: int = 0,
        step: int | None = None,
        layer: int | None = None,
    ) -> AttentionMap:
        """Where the token under a point of a target looked in the source.

        `point` is (x, y) as parts of the width and height that the network saw, 0 (inclusive) to 1
        (exclusive); `target` counts from 0. Without `step` or `layer` the mean over all captured
        ones is taken, at the finest grid. Raises `ConfigError` for a point or target that does not
        exist and `ScheduleError` for a step or layer that was not captured.
        """
        if not all(0.0 <= part < 1.0 for part in point):
            raise ConfigError(
                f"The point {point} was given; accepted are x and y as parts of the picture, from "
                "0 to just below 1."
            )
        if not 0 <= target < self.targets:
            raise ConfigError(
                f"target={target} was asked for, but the run had targets 0 to {self.targets - 1}."
            )
        chosen = [key for key in self._seen if step in (None, key[0]) and layer in (None, key[1])]
        if not chosen:
            raise ScheduleError(
                f"step={step} and layer={layer} were asked for; captured were steps "
                f"{listed(self.steps)} and layers {listed(self.layers)}."
            )
        maps = [self._seen[key][target].look(point) for key in chosen]
        finest = max((one.shape for one in maps), key=lambda shape: shape[0] * shape[1])
        return AttentionMap(
            map=torch.stack([_spread(one, (finest[0], finest[1])) for one in maps]).mean(dim=0),
            steps=tuple(sorted({key[0] for key in chosen})),
            layers=tuple(sorted({key[1] for key in chosen})),
        )


def _spread(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """The map at a finer grid; every token's weight is shared by the cells that it covers."""
    if tuple(weights.shape) == grid:
        return weights
    finer = functional.interpolate(weights[None, None], grid, mode="nearest")[0, 0]
    return finer * (weights.sum() / finer.sum())


def listed(numbers: Sequence[int]) -> str:
    """Numbers as words, unbroken spans by their ends."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers)) or "none"
