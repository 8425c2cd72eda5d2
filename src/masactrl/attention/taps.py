"""Hooks on any module of the denoiser that work together for the length of a run.

Where a control needs more than whole self-attention layers (attention probabilities, residual
features), a method brings its own hooks, called taps. This file gives them the clock, the rows and
the window, sees to it that every tap was really called, and takes all of them out again.
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
from masactrl.attention.steps import Clock, Tick
from masactrl.errors import ControlNotApplied

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from diffusers import DiffusionPipeline
    from torch import nn

    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import BatchRows, Rows

__all__ = ["Moment", "PlainHook", "Steps", "Tap", "TapSession", "tapped"]

Steps = Callable[[Sequence[float]], frozenset[int]]
"""The steps at which taps act, from the timesteps of a run's steps, noisiest first."""


class Moment:
    """The denoiser call in progress, shared by all taps of an attachment.

    `tick` is its step, `latent` (height, width) the latents' size, `rows` the layout of its batch
    and `acting` whether the window covers it.
    """

    def __init__(self) -> None:
        self.tick: Tick | None = None
        self.latent: tuple[int, int] = (0, 0)
        self.rows: BatchRows | None = None
        self.acting = False


class PlainHook(ModelHook):
    """A hook that somebody else switches on and off; it needs no clock."""


class Tap(ModelHook):
    """A hook on one module; `layer` is the number it is reported under.

    Subclasses write `new_forward` or `post_forward`, look at `moment`, and set `seen` when they
    acted.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.moment = Moment()
        self.seen = False


class TapSession:
    """The state of one attachment of taps.

    `on_call` is told of every denoiser call after the moment is set, and `on_run` of every new run
    before its first call.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        taps: Sequence[Tap],
        *,
        rows: Rows,
        steps: Steps,
        on_call: Callable[[Moment], None] | None = None,
        on_run: Callable[[Tick], None] | None = None,
    ) -> None:
        self.attached = Attached()
        self.moment = Moment()
        self._pipeline, self._taps, self._rows, self._steps = pipeline, taps, rows, steps
        self._on_call, self._on_run = on_call, on_run
        self._clock = Clock(network_of(pipeline)[0].time_scale)
        self._window: frozenset[int] = frozenset()
        self._touched: set[tuple[int, int]] = set()
        self._layouts: dict[tuple[int, torch.device], BatchRows] = {}
        for tap in taps:
            tap.moment = self.moment

    def before(self, call: DenoiserCall) -> None:
        """Set the moment for the denoiser call that is about to run."""
        sample = call.sample
        tick = self._clock.tick(call.timestep, getattr(self._pipeline, "scheduler", None))
        self._rows.branches(sample.shape[0])
        moment = self.moment
        if tick.new_run or moment.tick is None:
            self._window = self._steps(tick.timesteps)
            self._touched = set()
            self.attached._begin()
            if self._on_run is not None:
                self._on_run(tick)
        key = (sample.shape[0], sample.device)
        if key not in self._layouts:
            self._layouts[key] = self._rows.on_batch(*key)
        moment.tick, moment.rows = tick, self._layouts[key]
        moment.latent = call.size()
        moment.acting = tick.step in self._window and bool(self._rows.targets)
        for tap in self._taps:
            tap.seen = False
        if self._on_call is not None:
            self._on_call(moment)

    def after(self) -> None:
        """Check and note what the taps did in the denoiser call that has just ended."""
        moment, tick = self.moment, self.moment.tick
        if tick is None:
            return
        if moment.acting:
            for tap in self._taps:
                if not tap.seen:
                    raise ControlNotApplied(
                        f"A hook on layer {tap.layer} was not called at step {tick.step}: the "
                        "layer was skipped, or another hook displaced it. Attach after every "
                        "other change to the pipeline and leave the with block before undoing them."
                    )
                self._touched.add((tick.step, tap.layer))
        moment.acting = False
        self.attached._update(
            RunReport(
                timesteps=tick.timesteps, reached=tick.step + 1, touched=frozenset(self._touched)
            )
        )

    def conclude(self) -> None:
        """Complain when the latest run went by without its taps, though it should have had them."""
        if not self._rows.targets or not self._taps:
            return
        if self.moment.tick is None:
            raise ControlNotApplied(
                "The control was attached, but the pipeline's denoiser was never called. Call "
                "this very pipeline inside the with block."
            )
        if self._window and not self._touched:
            raise ControlNotApplied(
                f"The run ended at step {self.moment.tick.step} before the first controlled step "
                f"({min(self._window)}), so nothing was controlled."
            )


@contextmanager
def tapped(
    pipeline: DiffusionPipeline, session: TapSession, hooks: Sequence[tuple[nn.Module, ModelHook]]
) -> Iterator[Attached]:
    """Install `hooks` and the session's clock inside the `with` block, and take them out again.

    Raises `ControlNotApplied` on leaving when the latest run was not controlled.
    """
    name = f"masactrl-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(install(module, hook, name).remove)
        family, network = network_of(pipeline)
        clock = DenoiserHook(session.before, session.after, family.read)
        stack.callback(install(network, clock, name).remove)
        yield session.attached
        session.conclude()
