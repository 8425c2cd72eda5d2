"""One attachment at work: before every denoiser call it sets the hooks, afterwards it collects."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from masactrl.attention.hooks import SelfAttentionHook
from masactrl.attention.joint import JointAttentionHook, Turn
from masactrl.attention.masking import Masker, MaskUse, report_useless
from masactrl.attention.networks import network_of
from masactrl.attention.report import Attached, RunReport
from masactrl.attention.steps import Clock, Tick
from masactrl.attention.support import check_layers
from masactrl.errors import ControlNotApplied, ControlWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

    from masactrl.attention.call import Control
    from masactrl.attention.features import SourceCache
    from masactrl.attention.layers import Site
    from masactrl.attention.matching import Matcher
    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import BatchRows, Rows
    from masactrl.attention.schedule import Schedule

__all__ = ["OnUntouched", "Session"]

OnUntouched = Literal["raise", "warn"]
logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Run:
    """What is known of the run in progress."""

    tick: Tick
    steps: frozenset[int]
    called: bool = False
    call: int = 0  # of the denoiser in the present step
    touched: set[tuple[int, int]] = field(default_factory=set)
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    maps: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    useless: set[int] = field(default_factory=set)

    def report(self) -> RunReport:
        return RunReport(
            timesteps=self.tick.timesteps,
            reached=self.tick.step + 1,
            touched=frozenset(self.touched),
            masks=dict(self.masks),
            maps=dict(self.maps),
        )


class Session:
    """The state of one attachment: its clock, its hooks and the run in progress."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        control: Control | None,
        *,
        rows: Rows,
        schedule: Schedule,
        sites: Sequence[Site],
        masker: Masker | None,
        source: SourceCache | None,
        record: SourceCache | None,
        own: bool = False,
        turn: Turn | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        self.attached = Attached()
        self._family, self._network = network_of(pipeline)
        self._turn, self._matcher = turn, matcher
        self.hooks = [
            (site, part, self._hook(site, module, control, own=own))
            for site in sites
            for part, module in enumerate(site.parts)
        ]
        self._pipeline, self._rows, self._schedule = pipeline, rows, schedule
        self._masker, self._source, self._record = masker, source, record
        self._works = bool(sites) and (record is not None or bool(rows.targets))
        self._clock = Clock(self._family.time_scale)
        self._layouts: dict[tuple[int, torch.device], BatchRows] = {}
        self._closed = False
        self._run: _Run | None = None
        if masker is not None and control is not None:
            for site, _, hook in self.hooks:
                hook.mask_at = lambda site=site: masker.at(site)

    def _hook(
        self, site: Site, module: nn.Module, control: Control | None, *, own: bool
    ) -> SelfAttentionHook:
        if not self._family.joint:
            return SelfAttentionHook(site.name, control)
        first = self._family.text_first
        return JointAttentionHook(site, module, control, text_first=first, own=own, turn=self._turn)

    def before(self, call: DenoiserCall) -> None:
        """Set every hook for the denoiser call that is about to run."""
        if self._closed:
            return
        sample = call.sample
        tick = self._clock.tick(call.timestep, getattr(self._pipeline, "scheduler", None))
        self._rows.branches(sample.shape[0])
        if self._works and tick.step < 2:
            # Started from one noise, different images differ from the second step on.
            self._rows.check_latents(self._family.latents(self._network, sample))
        run = self._begin_run(tick) if tick.new_run or self._run is None else self._run
        run.call = run.call + 1 if run.called and tick.step == run.tick.step else 0
        run.tick, run.called = tick, True
        active = self._works and tick.step in run.steps
        if self._matcher is not None:
            self._matcher.before(tick, run.call, call.text, active)
        layout = self._layout(sample.shape[0], sample.device) if active else None
        if self._masker is not None:
            soon = self._works and tick.step + 1 in run.steps
            self._masker.before(tick, call, active=active, soon=soon, number=run.call)
        for site, part, hook in self.hooks:
            here = active and site.index not in call.skipped
            hook.prepare(active=here, rows=layout, recording=self._record is not None)
            if isinstance(hook, JointAttentionHook):
                hook.text = call.text
            if here and self._source is not None:
                kept = self._source.get(
                    tick.step, tick.timestep, site.index, part=part, call=run.call
                )
                hook.source = kept.to(device=sample.device)

    def after(self) -> None:
        """Collect what the hooks did in the denoiser call that has just ended."""
        run = self._run
        if self._closed or run is None:
            return
        if self._matcher is not None:
            self._matcher.after(run.tick, run.call)
        uses: list[tuple[Site, MaskUse]] = []
        for site, part, hook in self.hooks:
            if hook.active:
                self._collect(run, site, part, hook)
                if hook.used is not None:
                    uses.append((site, hook.used))
            hook.rest()
        self._keep_masks(run, uses)
        if self._masker is not None:
            self._masker.after(run.tick, uses)
        self.attached._update(run.report())

    def conclude(self, on_untouched: OnUntouched) -> None:
        """Complain when the latest run went by without the control."""
        reason = self._idle_reason()
        if reason is None:
            return
        if on_untouched == "warn":
            warnings.warn(reason, ControlWarning, stacklevel=5)
        else:
            raise ControlNotApplied(reason)

    def close(self) -> None:
        """Make hooks that somebody else still holds harmless."""
        self._closed = True
        for _, _, hook in self.hooks:
            hook.rest()
            hook.lost = False

    def _begin_run(self, tick: Tick) -> _Run:
        reason = self._idle_reason() if self._run is not None else None
        if reason is not None:
            warnings.warn(reason, ControlWarning, stacklevel=2)
        # Perturbed-attention guidance swaps processors when the pipeline is called.
        check_layers(site for site, _, _ in self.hooks)
        for _, _, hook in self.hooks:
            if isinstance(hook, JointAttentionHook):
                hook.check()
        if self._record is not None:
            self._record.clear()
        self.attached._begin()
        steps = self._schedule.resolve_steps(tick.timesteps)
        logger.debug("run of %d steps, controlled: %s", len(tick.timesteps), sorted(steps))
        self._run = _Run(tick=tick, steps=steps)
        return self._run

    def _collect(self, run: _Run, site: Site, part: int, hook: SelfAttentionHook) -> None:
        tick = run.tick
        if not hook.seen:
            raise ControlNotApplied(
                f"The control of layer {site.index} ({site.name}) was not called at step "
                f"{tick.step}: the layer was skipped, or another hook displaced it. Attach after "
                "every other change to the pipeline and leave the with block before undoing them."
            )
        run.touched.add((tick.step, site.index))
        if self._record is not None and hook.recorded is not None:
            self._record.put(
                tick.step,
                tick.timestep,
                site.index,
                hook.recorded,
                self._rows.images,
                part=part,
                call=run.call,
            )

    def _keep_masks(self, run: _Run, uses: Sequence[tuple[Site, MaskUse]]) -> None:
        step = run.tick.step
        for site, use in uses:
            mask = use.mask.bool().cpu()
            run.masks[step, site.index] = mask
            if use.map is not None:
                run.maps[step, site.index] = use.map.cpu()
            if self._masker is not None:
                parts = {i: mask[i] for i in self._rows.involved if i not in run.useless}
                where = f"was used at step {step}, layer {site.index} for"
                run.useless.update(report_useless(parts, self._masker.on_empty, where))

    def _layout(self, batch: int, device: torch.device) -> BatchRows:
        key = (batch, device)
        if key not in self._layouts:
            self._layouts[key] = self._rows.on_batch(batch, device)
        return self._layouts[key]

    def _idle_reason(self) -> str | None:
        """Why the latest run was not controlled, or None when it was, or was not meant to be."""
        run = self._run
        if not self._works or (run is not None and run.touched):
            return None
        if run is None:
            return (
                "The control was attached, but the pipeline's denoiser was never called. Call "
                "this very pipeline inside the with block."
            )
        return (
            f"The run ended at step {run.tick.step} of {len(run.tick.timesteps)} before the "
            f"first controlled step ({min(run.steps, default=0)}), so nothing was controlled. "
            "Let it run further, or start the control earlier."
        )
