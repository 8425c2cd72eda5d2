"""How all that is ours gets onto a network: hooks put on together, and who is told of calls."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from diffusers.hooks.hooks import ModelHook

from masactrl.attention.hooks import install
from masactrl.attention.networks import network_of
from masactrl.attention.steps import StepTracker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diffusers import DiffusionPipeline
    from torch import nn

    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.steps import StepInfo

__all__ = ["Observer", "installed", "observed"]


class Observer(Protocol):
    """Told of every call of a pipeline's denoiser."""

    def before(self, info: StepInfo, call: DenoiserCall) -> None:
        """A call of this step is about to run."""

    def after(self) -> None:
        """It has ended; not said where it raised."""


@contextmanager
def installed(hooks: Iterable[tuple[nn.Module, ModelHook]]) -> Iterator[None]:
    """Put hooks on modules, in order, inside the `with` block, and take them out again."""
    name = f"masactrl-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        for number, (module, hook) in enumerate(hooks):
            stack.callback(install(module, hook, f"{name}-{number}").remove)
        yield


@contextmanager
def observed(
    pipeline: DiffusionPipeline,
    observer: Observer,
    hooks: Iterable[tuple[nn.Module, ModelHook]] = (),
) -> Iterator[None]:
    """Tell `observer` of the denoiser's calls inside the `with` block, with `hooks` in place.

    Of several observers the latest is told of a call first, and of its end last.
    """
    _, network = network_of(pipeline)
    hook = _DenoiserHook(pipeline, observer)
    with installed([*hooks, (network, hook)]):
        try:
            yield
        finally:
            hook.live = False


class _DenoiserHook(ModelHook):
    """Turns calls of the network into steps; `live` is off once the block was left."""

    def __init__(self, pipeline: DiffusionPipeline, observer: Observer) -> None:
        super().__init__()
        self.live = True
        self._pipeline, self._observer = pipeline, observer
        self._family, _ = network_of(pipeline)
        self._tracker = StepTracker(self._family.time_scale)

    # The step tracker works on Python numbers; traced into a graph it would compile one per step.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """Report the call."""
        if self.live:
            call = self._family.read(args, kwargs)
            scheduler = getattr(self._pipeline, "scheduler", None)
            self._observer.before(self._tracker.step_of(call.timestep, scheduler), call)
        return args, kwargs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def post_forward(self, _module: nn.Module, output: object) -> object:
        """Report that the call is over."""
        if self.live:
            self._observer.after()
        return output
