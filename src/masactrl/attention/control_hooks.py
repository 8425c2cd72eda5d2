"""Hooks on any module of the denoiser that work together for the length of a run.

Where a control needs more than whole self-attention layers (attention probabilities, residual
features), a method brings its own hooks. This file gives them the step, the rows and the
window, sees to it that every one was really called, and takes all out again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from diffusers.hooks.hooks import ModelHook

from masactrl.attention.observing import observed
from masactrl.attention.report import Attached, Run, idle_reason, not_called
from masactrl.errors import ControlNotApplied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import DiffusionPipeline
    from torch import nn

    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import BatchRows, Rows
    from masactrl.attention.steps import StepInfo

__all__ = ["CallContext", "ControlHook", "HookSession", "PlainHook", "Steps", "hooked"]

Steps = Callable[[Sequence[float]], frozenset[int]]
"""The steps at which hooks act, from the timesteps of a run's steps, noisiest first."""


class CallContext:
    """The denoiser call in progress, shared by all hooks of an attachment.

    `info` is its step, `latent` (height, width) the latents' size, `rows` the layout of its batch
    and `acting` whether the window covers it.
    """

    def __init__(self) -> None:
        self.info: StepInfo | None = None
        self.latent: tuple[int, int] = (0, 0)
        self.rows: BatchRows | None = None
        self.acting = False


class PlainHook(ModelHook):
    """A hook that somebody else switches on and off; it needs no step."""


class ControlHook(ModelHook):
    """A hook on one module; `layer` is the number it is reported under.

    Subclasses write `new_forward` or `post_forward`, look at `context`, and set `seen` when they
    acted.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.context = CallContext()
        self.seen = False


class HookSession:
    """The state of one attachment of control hooks.

    `on_call` is told of every denoiser call after the context is set.
    """

    def __init__(
        self,
        hooks: Sequence[ControlHook] = (),
        *,
        rows: Rows,
        steps: Steps = lambda _: frozenset(),
        on_call: Callable[[CallContext], None] | None = None,
    ) -> None:
        self.attached = Attached()
        self.context = CallContext()
        self._hooks, self._rows, self._steps, self._on_call = hooks, rows, steps, on_call
        self._layout = cache(rows.on_batch)
        self._run: Run | None = None
        for hook in hooks:
            hook.context = self.context

    def before(self, info: StepInfo, call: DenoiserCall) -> None:
        """Set the context for the denoiser call that is about to run."""
        context, sample = self.context, call.sample
        self._rows.branches(sample.shape[0])
        if info.new_run or self._run is None:
            self._run = Run(info=info, steps=self._steps(info.timesteps))
            self.attached._begin()
        self._run.info = context.info = info
        context.rows, context.latent = self._layout(sample.shape[0], sample.device), call.size()
        context.acting = info.step in self._run.steps and bool(self._rows.targets)
        for hook in self._hooks:
            hook.seen = False
        if self._on_call is not None:
            self._on_call(context)

    def after(self) -> None:
        """Check and note what the hooks did in the denoiser call that has just ended."""
        run = self._run
        if run is None:
            return
        for hook in self._hooks if self.context.acting else ():
            if not hook.seen:
                raise not_called(f"A hook on layer {hook.layer}", run.info.step)
            run.touched.add((run.info.step, hook.layer))
        self.context.acting = False
        self.attached._update(run.report())

    def conclude(self) -> None:
        """Complain when the latest run went by without the hooks that it should have had."""
        run = self._run
        if not self._rows.targets or not self._hooks or (run is not None and not run.steps):
            return
        reason = idle_reason(run)
        if reason is not None:
            raise ControlNotApplied(reason)


@contextmanager
def hooked(
    pipeline: DiffusionPipeline,
    session: HookSession,
    hooks: Sequence[tuple[nn.Module, ModelHook]] = (),
) -> Iterator[Attached]:
    """Install `hooks` and lead them by `session` inside the `with` block, and take them out again.

    Raises `ControlNotApplied` on leaving when the latest run was not controlled.
    """
    with observed(pipeline, session, hooks):
        yield session.attached
        session.conclude()
