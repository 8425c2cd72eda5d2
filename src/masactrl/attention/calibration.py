r"""Which layers depend on where tokens stand: choose layers for a network with rotary embeddings.

Layers that do not care where a key stands are those in which a target can read its source without
being pulled to the same pose (FreeFlux chose its layers for non-rigid edits of FLUX like that, and
found 0, 7, 8, 9, 10, 18, 25, 28, 37, 42, 45, 50, 56). The measurement, per block and step of a run
that itself is not changed:

    score = || f(x; p) - f(x; 0) || / || f(x; p) - x ||

x       the picture's tokens that enter the block
f       the block, with the picture's tokens at their places p, or all of them at the origin
score   the part of what the block adds that hangs on position; 0 is none, around 1 all of it

The norm is over tokens and channels, the mean over rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from masactrl.attention.control_hooks import PlainHook
from masactrl.attention.layers import unwrap
from masactrl.attention.networks import find_layers, network_of
from masactrl.attention.observing import observed
from masactrl.attention.schedule import Place, Schedule
from masactrl.errors import ConfigError, ControlNotApplied, UnsupportedPipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.steps import StepInfo

__all__ = ["PositionDependence", "position_dependence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionDependence:
    """How much every layer depends on position.

    `scores` has a row for every step and an entry for every layer, 0 or more, as defined above;
    `places` says for every layer which part of the network it is in.
    """

    scores: tuple[tuple[float, ...], ...]
    places: tuple[Place, ...]

    @property
    def layers(self) -> tuple[float, ...]:
        """The mean over steps for every layer."""
        return tuple(sum(column) / len(column) for column in zip(*self.scores, strict=True))

    def least(self, count: int) -> tuple[int, ...]:
        """The `count` layers that depend least on position, in the order in which they run.

        Raises `ConfigError` for a number of layers that the network does not have.
        """
        means = self.layers
        if not 1 <= count <= len(means):
            raise ConfigError(
                f"{count} layers were asked for; accepted are 1 to {len(means)}, which the network "
                "has."
            )
        ranked = sorted(range(len(means)), key=lambda layer: (means[layer], layer))
        return tuple(sorted(ranked[:count]))

    def schedule(self, count: int) -> Schedule:
        """The schedule that controls those layers at all steps."""
        return Schedule(layers=self.least(count))


def position_dependence(
    pipeline: DiffusionPipeline, make: Callable[[], object]
) -> PositionDependence:
    """Measure how much each block's output depends on position, while `make` runs the pipeline.

    Every block is computed twice, so the run takes twice the time; its pictures are what they would
    have been. Raises `UnsupportedPipeline` for networks without rotary embeddings, whose blocks get
    no positions that could be taken away, and `ControlNotApplied` when `make` did not run the
    pipeline.

        found = position_dependence(pipeline, lambda: pipeline("a cat", num_inference_steps=8))
        control = MasaCtrl(schedule=found.schedule(13))
    """
    family, network = network_of(pipeline)
    if family.rotary is None:
        raise UnsupportedPipeline(
            f"{type(pipeline).__name__} has no rotary embeddings: its blocks get no positions that "
            "could be taken away one block at a time. This is for FLUX; elsewhere try start_layer."
        )
    layers = find_layers(network)
    probe = _Probe(len(layers))
    block = unwrap(network).get_submodule
    hooks = [(block(one.name.removesuffix(".attn")), _BlockHook(one, probe)) for one in layers]
    with observed(pipeline, probe, hooks):
        make()
    if not probe.sums:
        raise ControlNotApplied(
            "The pipeline's network was never called, so nothing was measured. Let make() run this "
            "very pipeline."
        )
    return PositionDependence(scores=probe.scores(), places=tuple(layer.place for layer in layers))


class _Probe:
    """Sums of scores by step."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._step = 0
        self.sums: dict[int, list[list[float]]] = {}

    def before(self, info: StepInfo, _call: DenoiserCall) -> None:
        if info.new_run:
            self.sums = {}
        self._step = info.step
        self.sums.setdefault(self._step, [[] for _ in range(self._layers)])

    def after(self) -> None:
        """Blocks have noted all there is."""

    def note(self, layer: int, score: float) -> None:
        self.sums[self._step][layer].append(score)

    def scores(self) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(sum(one) / len(one) if one else 0.0 for one in self.sums[step])
            for step in sorted(self.sums)
        )


class _BlockHook(PlainHook):
    """Runs a block a second time without positions, and returns what it made the first time."""

    def __init__(self, layer: AttentionLayer, probe: _Probe) -> None:
        super().__init__()
        self._layer, self._probe = layer.index, probe

    def new_forward(self, _module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The block's own output."""
        chain: Any = self.fn_ref
        made = chain.original_forward(*args, **kwargs)
        x: Tensor = kwargs["hidden_states"]
        cos, sin = (table.clone() for table in kwargs["image_rotary_emb"])
        text = cos.shape[0] - x.shape[1]
        cos[text:], sin[text:] = 1.0, 0.0
        moved = chain.original_forward(*args, **kwargs | {"image_rotary_emb": (cos, sin)})
        f, f_0 = (out[1].float() for out in (made, moved))
        added = torch.linalg.vector_norm(f - x.float(), dim=(1, 2))
        changed = torch.linalg.vector_norm(f - f_0, dim=(1, 2))
        self._probe.note(self._layer, float((changed / added.clamp_min(1e-12)).mean()))
        return made
