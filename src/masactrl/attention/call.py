"""What a control sees of one layer, and the signature of a control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from masactrl.attention.rows import BatchRows, Part

__all__ = ["Control", "Layer", "LayerCall"]


class Layer(Protocol):
    """The untouched layer, with whatever processor, LoRA or slicing it carries.

    `layer(queries)` is plain self-attention; `layer(queries, context)` takes keys and values from
    `context`; `allowed` limits the keys. Shapes: queries (rows, tokens, channels), context
    (rows, keys, channels), allowed (rows, keys) in {0, 1}; returns (rows, tokens, channels).
    """

    def __call__(
        self, queries: Tensor, context: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """The layer's output for these queries, keys and values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """One call of one layer.

    `layer` is the untouched layer, `hidden` (rows, tokens, channels) its normalised input, `bank`
    (bank rows, tokens, channels) the hidden states that may be read (the same tensor, unless
    recorded sources are added to it), `rows` says who reads whom, and `masks` (bank rows, tokens)
    in {0, 1} marks each image's foreground, or is None. `name` is as in `AttentionLayer`.

    In joint attention (SD3, FLUX) `hidden` and `bank` stand for the picture's tokens with what the
    layer needs beside them, so they can be indexed by rows and joined along tokens, no more; what
    is read of the text is always the row's own. `turned` gives the rows of a part what they read
    of their k-th source with the keys at other positions, where a position policy asks for that.
    """

    layer: Layer
    hidden: Tensor
    bank: Tensor
    rows: BatchRows
    masks: Tensor | None
    name: str = ""
    turned: Callable[[Tensor, Part, int], Tensor] | None = None

    def read(self, part: Part, k: int) -> Tensor:
        """What the rows of `part` read of their k-th source: (rows, tokens, channels)."""
        context = self.bank[part.sources[k]]
        return context if self.turned is None else self.turned(context, part, k)


Control = Callable[[LayerCall], Tensor]
"""A control maps a layer call to the layer's output (rows, tokens, channels)."""
