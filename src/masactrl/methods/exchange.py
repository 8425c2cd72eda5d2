"""Projections of joint attention fed with the source's tokens: shared by two methods.

While a layer of SD3 or FLUX runs, some of `to_q`, `to_k`, `to_v` are given the hidden states of the
source for the target's rows; norms, rotary embeddings, processor and LoRA stay in place. Of a layer
that reads text and picture as one (FLUX's single blocks) the text's tokens stay the target's,
unless they are asked for as well.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from masactrl.attention.control_hooks import ControlHook, HookSession, PlainHook, hooked
from masactrl.attention.layers import AttentionLayer, unwrap
from masactrl.attention.networks import find_layers, network_of
from masactrl.errors import ScheduleError, UnsupportedPipeline
from masactrl.methods.structure import structure_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

    from masactrl.attention.control_hooks import Steps
    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["exchanged", "joint_layers", "later_half"]


class _Feed(PlainHook):
    """Feeds a projection `fed`, whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: Tensor | None = None

    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """Replace the input while something is fed."""
        return (args if self.fed is None else (self.fed, *args[1:])), kwargs


class _Exchange(ControlHook):
    """On a layer: feeds its projections while it runs."""

    def __init__(
        self, layer: AttentionLayer, module: Any, projections: Sequence[str], *, text: bool
    ) -> None:
        super().__init__(layer.index)
        self._layer, self._module, self._text = layer, module, text
        self.feeds = [(name, getattr(module, name), _Feed()) for name in projections]

    def new_forward(self, _module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, with the source's tokens where the window says so."""
        forward, rows = self.fn_ref.original_forward, self.context.rows
        if not self.context.acting or rows is None:
            return forward(*args, **kwargs)
        for name, projection, _ in self.feeds:
            if getattr(self._module, name) is not projection:
                raise UnsupportedPipeline(
                    f"{name} of {self._site.name} was replaced after the method was attached. Load "
                    "LoRA and adapters before attaching."
                )
        hidden = args[0] if args else kwargs["hidden_states"]
        fed = hidden[structure_index(rows, hidden.shape[0])]
        if self._layer.place == "single" and not self._text:
            height, width = self._layer.grid(*self.context.latent)
            text = hidden.shape[1] - height * width
            fed = torch.cat([hidden[:, :text], fed[:, text:]], dim=1)
        for *_, feed in self.feeds:
            feed.fed = fed
        try:
            return forward(*args, **kwargs)
        finally:
            self.seen = True
            for *_, feed in self.feeds:
                feed.fed = None


@contextmanager
def exchanged(
    pipeline: DiffusionPipeline,
    rows: Rows,
    projections: Sequence[str],
    *,
    layers: Sequence[AttentionLayer],
    steps: Steps,
    text: bool = False,
) -> Iterator[Attached]:
    """Feed the projections inside the `with` block.

    Args:
        pipeline: of SD3 or FLUX.
        rows: who reads whom.
        projections: of `to_q`, `to_k`, `to_v`.
        layers: where.
        steps: when.
        text: whether text tokens of single blocks are exchanged, too.

    Raises:
        ControlNotApplied: on leaving, when the latest run was not controlled.
    """
    exchanges = [
        _Exchange(layer, unwrap(module), projections, text=text)
        for layer in layers
        for module in layer.parts
    ]
    modules = [module for layer in layers for module in layer.parts]
    hooks: list[tuple[nn.Module, Any]] = [
        (projection, feed) for one in exchanges for _, projection, feed in one.feeds
    ]
    session = HookSession(exchanges, rows=rows, steps=steps)
    with hooked(pipeline, session, [*hooks, *zip(modules, exchanges, strict=True)]) as attached:
        yield attached


def joint_layers(pipeline: DiffusionPipeline, name: str) -> tuple[AttentionLayer, ...]:
    """The layers of SD3 or FLUX; `UnsupportedPipeline` for a U-Net."""
    family, network = network_of(pipeline)
    if not family.joint:
        raise UnsupportedPipeline(
            f"{name} works on the joint attention of SD3 and FLUX, and {type(pipeline).__name__} "
            "has a U-Net; use plug-and-play or prompt-to-prompt there."
        )
    return find_layers(network)


def later_half(
    layers: Sequence[AttentionLayer], numbers: tuple[int, ...] | None
) -> tuple[AttentionLayer, ...]:
    """The layers of these numbers; None is the later half of FLUX's single or SD3's blocks.

    Raises `ScheduleError` for numbers that the network has not.
    """
    if numbers is None:
        single = [layer for layer in layers if layer.place == "single"] or list(layers)
        return tuple(single[len(single) // 2 :])
    known = {layer.index: layer for layer in layers}
    for number in numbers:
        if number not in known:
            raise ScheduleError(
                f"Layer {number} was asked for; this network has 0 to {len(layers) - 1}."
            )
    return tuple(known[number] for number in numbers)
