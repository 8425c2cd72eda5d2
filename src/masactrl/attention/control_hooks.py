"""Hooks on any module of the denoiser that work together for the length of a run.

Where a control needs more than whole self-attention layers (attention probabilities, residual
features), a method brings its own hooks. This file gives them the step, the rows and the
window, sees to it that every one was really called, and takes all out again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from diffusers.hooks.hooks import ModelHook

from masactrl.attention.hooks import DenoiserHook, install
from masactrl.attention.networks import network_of
from masactrl.attention.report import Attached, RunReport
from masactrl.attention.steps import StepInfo, StepTracker
from masactrl.errors import ControlNotApplied

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from diffusers import DiffusionPipeline
    from torch import nn

    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import BatchRows, Rows

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

    `on_call` is told of every denoiser call after the context is set, and `on_run` of every new run
    before its first call.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        hooks: Sequence[ControlHook],
        *,
        rows: Rows,
        steps: Steps,
        on_call: Callable[[CallContext], None] | None = None,
        on_run: Callable[[StepInfo], None] | None = None,
    ) -> None:
        self.attached = Attached()
        self.context = CallContext()
        self._pipeline, self._hooks, self._rows, self._steps = pipeline, hooks, rows, steps
        self._on_call, self._on_run = on_call, on_run
        self._tracker = StepTracker(network_of(pipeline)[0].time_scale)
        self._window: frozenset[int] = frozenset()
        self._touched: set[tuple[int, int]] = set()
        self._layouts: dict[tuple[int, torch.device], BatchRows] = {}
        for hook in hooks:
            hook.context = self.context

    def before(self, call: DenoiserCall) -> None:
        """Set the context for the denoiser call that is about to run."""
        sample = call.sample
        info = self._tracker.step_of(call.timestep, getattr(self._pipeline, "scheduler", None))
        self._rows.branches(sample.shape[0])
        context = self.context
        if info.new_run or context.info is None:
            self._window = self._steps(info.timesteps)
            self._touched = set()
            self.attached._begin()
            if self._on_run is not None:
                self._on_run(info)
        key = (sample.shape[0], sample.device)
        if key not in self._layouts:
            self._layouts[key] = self._rows.on_batch(*key)
        context.info, context.rows = info, self._layouts[key]
        context.latent = call.size()
        context.acting = info.step in self._window and bool(self._rows.targets)
        for hook in self._hooks:
            hook.seen = False
        if self._on_call is not None:
            self._on_call(context)

    def after(self) -> None:
        """Check and note what the hooks did in the denoiser call that has just ended."""
        context, info = self.context, self.context.info
        if info is None:
            return
        if context.acting:
            for hook in self._hooks:
                if not hook.seen:
                    raise ControlNotApplied(
                        f"A hook on layer {hook.layer} was not called at step {info.step}: the "
                        "layer was skipped, or another hook displaced it. Attach after every "
                        "other change to the pipeline and leave the with block before undoing them."
                    )
                self._touched.add((info.step, hook.layer))
        context.acting = False
        self.attached._update(
            RunReport(
                timesteps=info.timesteps, reached=info.step + 1, touched=frozenset(self._touched)
            )
        )

    def conclude(self) -> None:
        """Complain when the latest run went by without the hooks that it should have had."""
        if not self._rows.targets or not self._hooks:
            return
        if self.context.info is None:
            raise ControlNotApplied(
                "The control was attached, but the pipeline's denoiser was never called. Call "
                "this very pipeline inside the with block."
            )
        if self._window and not self._touched:
            raise ControlNotApplied(
                f"The run ended at step {self.context.info.step} before the first controlled step "
                f"({min(self._window)}), so nothing was controlled."
            )


@contextmanager
def hooked(
    pipeline: DiffusionPipeline, session: HookSession, hooks: Sequence[tuple[nn.Module, ModelHook]]
) -> Iterator[Attached]:
    """Install `hooks` and the session's own inside the `with` block, and take them out again.

    Raises `ControlNotApplied` on leaving when the latest run was not controlled.
    """
    name = f"masactrl-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(install(module, hook, name).remove)
        family, network = network_of(pipeline)
        tracker = DenoiserHook(session.before, session.after, family.read)
        stack.callback(install(network, tracker, name).remove)
        yield session.attached
        session.conclude()
