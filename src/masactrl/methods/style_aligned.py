r"""StyleAligned shared attention (Hertz et al., CVPR 2024): one style over several pictures.

    Q^ = AdaIN(Q, Q_s)      K^ = AdaIN(K, K_s)                                          (Eq. 3)
    A(Q^, [K_s ; K^], [V_s ; V])                                                        (Eq. 4)

    AdaIN(x, y) = sigma(y) (x - mu(x)) / sigma(x) + mu(y)

    Q, K, V          queries, keys, values of a target;   Q_s, K_s, V_s  of its reference
    mu, sigma        mean and standard deviation over tokens, for every channel
    [ ; ]            side by side along the tokens

The keys and values of a layer called on [h_s ; h] are the ones of Eq. 4; two hooks, on the query
and the key projection, add the normalisation. Sources compute what they compute alone.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from masactrl.attention.attachment import attach
from masactrl.attention.control_hooks import PlainHook
from masactrl.attention.networks import find_layers
from masactrl.attention.observing import installed
from masactrl.attention.schedule import Schedule
from masactrl.attention.support import denoiser_of
from masactrl.methods.method import check_pairs
from masactrl.methods.structure import still_there

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import nn

    from masactrl.attention.call import LayerCall
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Part, Rows

__all__ = ["StyleAligned", "adain"]

_EPS = 1e-5  # of the published code, inside the square root


def adain(x: Tensor, y: Tensor) -> Tensor:
    """`x` (rows, tokens, channels) with mean and deviation over tokens of `y`, shaped alike."""
    mu, sigma = _moments(x)
    mu_y, sigma_y = _moments(y)
    return (x - mu) / sigma * sigma_y + mu_y


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    one = min(1, x.shape[-2] - 1)  # a single token has no deviation, and none is made up
    return x.mean(dim=-2, keepdim=True), (x.var(-2, correction=one, keepdim=True) + _EPS).sqrt()


class _QueryHook(PlainHook):
    """Normalises the queries to those of `reference` (rows, tokens, channels) while it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reference: Tensor | None = None

    def new_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        chain: Any = self.fn_ref
        q = chain.original_forward(*args, **kwargs)
        if self.reference is None:
            return q
        return adain(q, chain.original_forward(self.reference))


class _KeyHook(PlainHook):
    """Of keys [K_s ; K] (rows, 2 tokens, channels), normalises the second half to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.active = False

    def post_forward(self, _module: nn.Module, output: Tensor) -> Tensor:
        if not self.active:
            return output
        k_s, k = output.chunk(2, dim=1)
        return torch.cat([k_s, adain(k, k_s)], dim=1)


class _Shared:
    """The control of all layers, with the two hooks of each."""

    def __init__(self, layers: Sequence[AttentionLayer], *, queries: bool, keys: bool) -> None:
        self._queries, self._keys = queries, keys
        self._held = {
            layer.name: (layer, layer.module.to_q, _QueryHook(), layer.module.to_k, _KeyHook())
            for layer in layers
        }

    @property
    def hooks(self) -> list[tuple[nn.Module, PlainHook]]:
        pairs: list[tuple[nn.Module, PlainHook]] = []
        for _, to_q, on_q, to_k, on_k in self._held.values():
            pairs += [(to_q, on_q), (to_k, on_k)]
        return pairs

    def __call__(self, call: LayerCall) -> Tensor:
        # One plain call for all rows first: sources and bystanders keep every bit.
        output = call.layer(call.hidden).clone()
        for part in call.rows.parts:
            if part.sources:
                output[part.rows] = self._part(call, part).to(output.dtype)
        return output

    def _part(self, call: LayerCall, part: Part) -> Tensor:
        layer, to_q, on_q, to_k, on_k = self._held[call.name]
        still_there(layer, "to_q", to_q)
        still_there(layer, "to_k", to_k)
        h, h_s = call.hidden[part.rows], call.bank[part.sources[0]]
        on_q.reference = h_s if self._queries else None
        on_k.active = self._keys
        try:
            return call.layer(h, torch.cat([h_s, h], dim=1))
        finally:
            on_q.reference, on_k.active = None, False


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleAligned:
    """Shared attention; `schedule` chooses steps and layers, all by default as published.

    `queries` and `keys` switch the normalisation (AdaIN) of each on.
    """

    schedule: Schedule = field(default_factory=Schedule)
    queries: bool = True
    keys: bool = True
    name: ClassVar[str] = "style-aligned"
    start: ClassVar[None] = None

    @contextmanager
    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> Iterator[Attached]:
        """Share attention inside the `with` block; raises what `masactrl.attention.attach` does."""
        del prompts  # the method looks at pictures, not at words
        check_pairs(self.name, rows)
        layers = self.schedule.resolve_layers(find_layers(denoiser_of(pipeline)))
        shared = _Shared(layers, queries=self.queries, keys=self.keys)
        with (
            installed(shared.hooks),
            attach(pipeline, shared, rows=rows, schedule=self.schedule) as attached,
        ):
            yield attached
