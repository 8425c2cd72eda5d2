"""One attachment at work: before every denoiser call it sets the hooks, afterwards it collects."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from masactrl.attention.hooks import SelfAttentionHook
from masactrl.attention.joint import JointAttentionHook, Turn
from masactrl.attention.masking import Masker, MaskUse, report_useless
from masactrl.attention.networks import network_of
from masactrl.attention.report import Attached, Run, idle_reason, not_called
from masactrl.attention.support import check_layers
from masactrl.errors import ControlNotApplied, ControlWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import DiffusionPipeline
    from torch import nn

    from masactrl.attention.call import Control
    from masactrl.attention.features import SourceFeatures
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.matching import Matcher
    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import Rows
    from masactrl.attention.schedule import Schedule
    from masactrl.attention.steps import StepInfo

__all__ = ["OnUntouched", "Session"]

OnUntouched = Literal["raise", "warn"]
logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Run(Run):
    """The run in progress, with the `call` of the denoiser in the present step."""

    call: int = -1
    useless: set[int] = field(default_factory=set)


class Session:
    """The state of one attachment: its hooks and the run in progress."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        control: Control | None,
        *,
        rows: Rows,
        schedule: Schedule,
        layers: Sequence[AttentionLayer],
        masker: Masker | None,
        source: SourceFeatures | None,
        record: SourceFeatures | None,
        own: bool = False,
        turn: Turn | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        self.attached = Attached()
        self._family, self._network = network_of(pipeline)
        self._turn, self._matcher = turn, matcher
        self.hooks = [
            (layer, part, self._hook(layer, module, control, own=own))
            for layer in layers
            for part, module in enumerate(layer.parts)
        ]
        self._rows, self._schedule = rows, schedule
        self._masker, self._source, self._record = masker, source, record
        self._works = bool(layers) and (record is not None or bool(rows.targets))
        self._layout = cache(rows.on_batch)
        self._run: _Run | None = None
        if masker is not None and control is not None:
            for layer, _, hook in self.hooks:
                hook.mask_at = lambda layer=layer: masker.at(layer)

    def _hook(
        self, layer: AttentionLayer, module: nn.Module, control: Control | None, *, own: bool
    ) -> SelfAttentionHook:
        if not self._family.joint:
            return SelfAttentionHook(layer.name, control)
        first = self._family.text_first
        return JointAttentionHook(
            layer, module, control, text_first=first, own=own, turn=self._turn
        )

    def before(self, info: StepInfo, call: DenoiserCall) -> None:
        """Set every hook for the denoiser call that is about to run."""
        sample = call.sample
        self._rows.branches(sample.shape[0])
        if self._works and info.step < 2:
            # Started from one noise, different images differ from the second step on.
            self._rows.check_latents(self._family.latents(self._network, sample))
        run = self._begin_run(info) if info.new_run or self._run is None else self._run
        run.call = run.call + 1 if info.step == run.info.step else 0
        run.info = info
        active = self._works and info.step in run.steps
        if self._matcher is not None:
            self._matcher.before(info, run.call, call.text, active)
        layout = self._layout(sample.shape[0], sample.device) if active else None
        if self._masker is not None:
            soon = self._works and info.step + 1 in run.steps
            self._masker.before(info, call, active=active, soon=soon, number=run.call)
        for layer, part, hook in self.hooks:
            here = active and layer.index not in call.skipped
            hook.prepare(active=here, rows=layout, recording=self._record is not None)
            if isinstance(hook, JointAttentionHook):
                hook.text = call.text
            if here and self._source is not None:
                kept = self._source.get(
                    info.step, info.timestep, layer.index, part=part, call=run.call
                )
                hook.source = kept.to(device=sample.device)

    def after(self) -> None:
        """Collect what the hooks did in the denoiser call that has just ended."""
        run = self._run
        if run is None:
            return
        if self._matcher is not None:
            self._matcher.after(run.info, run.call)
        uses: list[tuple[AttentionLayer, MaskUse]] = []
        for layer, part, hook in self.hooks:
            if hook.active:
                self._collect(run, layer, part, hook)
                if hook.used is not None:
                    uses.append((layer, hook.used))
            hook.rest()
        self._keep_masks(run, uses)
        if self._masker is not None:
            self._masker.after(run.info, uses)
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
        for _, _, hook in self.hooks:
            hook.rest()
            hook.lost = False

    def _begin_run(self, info: StepInfo) -> _Run:
        reason = self._idle_reason() if self._run is not None else None
        if reason is not None:
            warnings.warn(reason, ControlWarning, stacklevel=2)
        # Perturbed-attention guidance swaps processors when the pipeline is called.
        check_layers(layer for layer, _, _ in self.hooks)
        for _, _, hook in self.hooks:
            if isinstance(hook, JointAttentionHook):
                hook.check()
        if self._record is not None:
            self._record.clear()
        self.attached._begin()
        steps = self._schedule.resolve_steps(info.timesteps)
        logger.debug("run of %d steps, controlled: %s", len(info.timesteps), sorted(steps))
        self._run = _Run(info=info, steps=steps)
        return self._run

    def _collect(
        self, run: _Run, layer: AttentionLayer, part: int, hook: SelfAttentionHook
    ) -> None:
        info = run.info
        if not hook.seen:
            what = f"The control of layer {layer.index} ({layer.name})"
            raise not_called(what, info.step)
        run.touched.add((info.step, layer.index))
        if self._record is not None and hook.recorded is not None:
            self._record.put(
                info.step,
                info.timestep,
                layer.index,
                hook.recorded,
                self._rows.images,
                part=part,
                call=run.call,
            )

    def _keep_masks(self, run: _Run, uses: Sequence[tuple[AttentionLayer, MaskUse]]) -> None:
        step = run.info.step
        for layer, use in uses:
            mask = use.mask.bool().cpu()
            run.masks[step, layer.index] = mask
            if use.map is not None:
                run.maps[step, layer.index] = use.map.cpu()
            if self._masker is not None:
                parts = {i: mask[i] for i in self._rows.involved if i not in run.useless}
                where = f"was used at step {step}, layer {layer.index} for"
                run.useless.update(report_useless(parts, self._masker.on_empty, where))

    def _idle_reason(self) -> str | None:
        """Why the latest run was not controlled, or None when it was, or was not meant to be."""
        return idle_reason(self._run) if self._works else None
