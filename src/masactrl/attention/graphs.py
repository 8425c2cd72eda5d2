"""A run's network calls, recorded once and replayed as CUDA graphs.

On a fast GPU a step of a small network takes as long as Python needs to launch its kernels. A CUDA
graph launches all of them at once; the kernels, and so the pictures, are the same. A graph is made
for every shape and for every state of the control, at the second call of its kind, and lives as
long as the run: what changes between runs (LoRAs, processors, weights) finds no old graph.

A call is replayed only where nothing in the network does anything in Python that a graph would not
repeat: no hooks but those of a control that says it is `replayable`, the processors of diffusers,
all inputs on the device. Any other call runs as it is.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor
from torch.utils import _pytree

from masactrl.attention.hooks import SelfAttentionHook
from masactrl.attention.observing import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from torch import nn

__all__ = ["GraphHook", "replaying"]


class CudaCapture:
    """Records what a call launches; all graphs of a run share their memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], object]) -> tuple[object, Callable[[], None]]:
        """What the call returned, and what launches it again."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            made = run()
        return made, graph.replay


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Graph:
    """One recorded call: where its inputs are put, and where it leaves what it made."""

    inputs: list[Tensor]
    sources: list[Tensor | None]
    hooks: list[SelfAttentionHook]
    recorded: list[Tensor | None]
    made: object
    replay: Callable[[], None]

    def __call__(self, tensors: list[Tensor]) -> object:
        """Replay it with other inputs of the same shapes."""
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor)
        for source, hook in zip(self.sources, self.hooks, strict=True):
            if source is not None and hook.source is not None:
                source.copy_(hook.source)
        self.replay()
        for hook, recorded in zip(self.hooks, self.recorded, strict=True):
            hook.seen, hook.recorded = hook.active, recorded
        # Its own memory is written over by the next replay.
        return _pytree.tree_map_only(Tensor, torch.clone, self.made)


class GraphHook(ModelHook):
    """Replays calls of one network; `graphs` counts the kinds of calls that it recorded."""

    def __init__(
        self,
        capture: Callable[[Callable[[], object]], tuple[object, Callable[[], None]]] | None = None,
        device: str = "cuda",
    ) -> None:
        super().__init__()
        self._capture, self._device = capture or CudaCapture(), device
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, _Graph] = {}
        self._kept: list[object] = []  # what keys name by its identity

    @property
    def graphs(self) -> int:
        """How many there are."""
        return len(self._graphs)

    def new_forward(self, module: nn.Module, *args: object, **kwargs: object) -> object:
        """The network's output, replayed where that is possible."""
        chain: Any = self.fn_ref
        forward: Callable[..., object] = chain.original_forward
        hooks = None if torch.is_grad_enabled() else self._hooks(module)
        leaves, layout = _pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if hooks is None or any(tensor.device.type != self._device for tensor in tensors):
            return forward(*args, **kwargs)
        key = (repr(layout), tuple(map(_kind, leaves)), tuple(map(_state, hooks)))
        if key in self._graphs:
            return self._graphs[key](tensors)
        if key not in self._seen:  # kinds that come once are not worth a graph
            self._seen.add(key)
            self._kept += [(hook, hook.rows) for hook in hooks]
            return forward(*args, **kwargs)

        inputs = [tensor.clone() for tensor in tensors]
        sources = [None if hook.source is None else hook.source.clone() for hook in hooks]
        own = [hook.source for hook in hooks]
        places = iter(inputs)
        given = [next(places) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = _pytree.tree_unflatten(given, layout)
        for hook, source in zip(hooks, sources, strict=True):
            hook.source = source
        made, replay = self._capture(lambda: forward(*args, **kwargs))
        recorded = [hook.recorded for hook in hooks]
        for hook, source in zip(hooks, own, strict=True):
            hook.source = source
        self._graphs[key] = _Graph(
            inputs=inputs,
            sources=sources,
            hooks=hooks,
            recorded=recorded,
            made=made,
            replay=replay,
        )
        return self._graphs[key](tensors)

    def _hooks(self, network: nn.Module) -> list[SelfAttentionHook] | None:
        """The control's hooks on the layers; None where the call cannot be replayed."""
        found: list[SelfAttentionHook] = []
        for module in network.modules():
            own = vars(module)
            if own["_forward_hooks"] or own["_forward_pre_hooks"] or "_hf_hook" in own:
                return None
            processor = own.get("processor")
            if processor is not None and not type(processor).__module__.startswith("diffusers."):
                return None
            registry = own.get("_diffusers_hook")
            hooks = [] if registry is None else list(registry.hooks.values())
            if module is network:
                if hooks.index(self):  # an older one runs inside of what is replayed
                    return None
                continue
            for hook in hooks:
                if type(hook) is not SelfAttentionHook or not hook.replayable:
                    return None
                found.append(hook)
        return found


def _state(hook: SelfAttentionHook) -> Hashable:
    """What a control's hook does in a call."""
    if not hook.active:
        return id(hook), False
    source = None if hook.source is None else _kind(hook.source)
    return id(hook), True, hook.recording, id(hook.rows), source


def _kind(leaf: object) -> Hashable:
    """Shape and type of a tensor, the value of anything else."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, str(leaf.device)
    return type(leaf), repr(leaf)


@contextmanager
def replaying(network: nn.Module, hook: GraphHook | None = None) -> Iterator[GraphHook]:
    """Replay a network's calls inside the `with` block, which is one run; on the CPU nothing is.

    What is attached to the network inside the block acts as ever.
    """
    hook = hook or GraphHook()
    with installed([(network, hook)]):
        yield hook
