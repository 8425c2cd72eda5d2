"""Attention whose structure is the source's: A(Q_s, K_s, V), shared by three methods.

A self-attention layer called on the source's hidden states computes A(Q_s, K_s, V_s). One hook on
its value projection hands that projection the target's hidden states instead, which gives
A(Q_s, K_s, V); the layer, its processor and its LoRA stay in place.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from masactrl.attention.control_hooks import PlainHook
from masactrl.attention.observing import installed
from masactrl.errors import UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from masactrl.attention.call import LayerCall
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.rows import BatchRows

__all__ = ["Branch", "Projection", "ValueHook", "still_there", "structure_index", "values_of"]

Branch = Literal["own", "conditional"]
"""From which guidance branch a target reads: its own, or the one that carries the prompts."""


class ValueHook(PlainHook):
    """Feeds a value projection `values` (rows, tokens, channels), whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.values: Tensor | None = None

    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """Replace the input while `values` are set."""
        return (args if self.values is None else (self.values, *args[1:])), kwargs


class Projection:
    """The value projections of some layers, by layer name, while a method is attached."""

    def __init__(self, layers: Sequence[AttentionLayer]) -> None:
        self._held = {layer.name: (layer, layer.module.to_v, ValueHook()) for layer in layers}

    @property
    def hooks(self) -> list[tuple[nn.Module, ValueHook]]:
        """Modules and the hooks that belong on them."""
        return [(module, hook) for _, module, hook in self._held.values()]

    def attend(self, call: LayerCall, index: Tensor) -> Tensor:
        """A(Q[index], K[index], V), each row with its own values: (rows, tokens, channels).

        `index` (rows,) are bank rows; a row that points to itself computes, to the bit, what the
        layer computes without control.
        """
        layer, module, hook = self._held[call.name]
        still_there(layer, "to_v", module)
        structure = call.bank[index]
        hook.values = call.hidden
        try:
            return call.layer(structure, structure)
        finally:
            hook.values = None


@contextmanager
def values_of(layers: Sequence[AttentionLayer]) -> Iterator[Projection]:
    """Hook the value projections of `layers` inside the `with` block."""
    projection = Projection(layers)
    with installed(projection.hooks):
        yield projection


def still_there(layer: AttentionLayer, part: str, module: nn.Module) -> None:
    """Refuse to go on when something (a LoRA, as a rule) replaced a hooked projection."""
    if getattr(layer.module, part) is not module:
        raise UnsupportedPipeline(
            f"{part} of {layer.name} was replaced after the method was attached, so it would be "
            "controlled only in part. Load LoRA and adapters before attaching."
        )


def structure_index(
    rows: BatchRows, bank: int, *, source: Branch = "own", only_conditional: bool = False
) -> Tensor:
    """(rows,) the bank row each batch row takes its structure from; itself when it reads nobody.

    The conditional branch is the last one. `bank` is the number of bank rows; `source` says whether
    both branches of a target read their own branch of the source or the conditional one, and with
    `only_conditional` targets of the other branches are left alone.
    """
    stride = bank // rows.branches
    index = torch.empty_like(rows.restore)
    for part in rows.parts:
        chosen = part.own
        if part.sources:
            chosen = part.sources[0]
            if source == "conditional":
                chosen = chosen % stride + (rows.branches - 1) * stride
            if only_conditional:
                last = part.rows // rows.images == rows.branches - 1
                chosen = torch.where(last, chosen, part.own)
        index[part.rows] = chosen
    return index
