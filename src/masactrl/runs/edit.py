"""One edit: the loop with its method, joint or from recorded features."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from masactrl.attention import Attached
from masactrl.attention.features import SideBySide
from masactrl.diffusion import denoise, freshened, noise_like
from masactrl.layouts.attach import attach_layouts
from masactrl.methods import MasaCtrl
from masactrl.runs.batch import BatchPlan, cached_layout, joint_layout
from masactrl.runs.from_source import targets_from_source
from masactrl.runs.method_choice import flat_rows, method_of
from masactrl.runs.outcome import Outcome
from masactrl.settings.prompt_weights import without_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from masactrl.attention import GivenMasks, SourceFeatures, WordMasks
    from masactrl.diffusion import Adjust, OnStep, Steer, Trajectory
    from masactrl.layouts.attach import Guide
    from masactrl.methods import Handle
    from masactrl.models.denoiser import Denoiser
    from masactrl.models.loading import Pipeline
    from masactrl.pictures.input import Framing
    from masactrl.runs.edit_request import ResolvedEdit
    from masactrl.runs.masks import MaskPlan
    from masactrl.runs.recording import RecordedSource

__all__ = ["EditRun", "Outcome"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditRun:
    """One edit on its way; `recording` decides whether it is joint or cached.

    `on_target_step` is told of targets that have steps of their own, `on_step` of all others.
    `guide` says what leads the rows of these images (0 the source, k target k); None leads nothing.
    Beside a recording targets read the images recorded in `beside`, too, and are recorded in
    `record`.
    """

    denoiser: Denoiser
    pipeline: Pipeline
    trajectory: Trajectory
    framing: Framing
    request: ResolvedEdit
    masks: MaskPlan | None = None
    recording: RecordedSource | None = None
    on_step: OnStep | None = None
    on_target_step: OnStep | None = None
    guide: Callable[[Sequence[int]], Sequence[Guide]] | None = None
    beside: SourceFeatures | None = None
    record: SourceFeatures | None = None

    def __call__(self) -> Outcome:
        """Make the targets."""
        start = method_of(self.request).start
        if start is not None:
            return targets_from_source(self, start)
        started, before = time.perf_counter(), self.denoiser.passes
        layout = self._layout()
        with (
            torch.no_grad(),
            self.denoiser.timetable(self.trajectory.schedule),
            self._led(layout),
            self._attach(layout) as handle,
        ):
            z = self._denoise(layout, handle)
        count, first = len(self.request.target_prompts), self._first_target
        used = None
        if self.masks is not None and isinstance(handle, Attached):
            used = self.masks.used(handle, (layout.source, layout.targets), self.framing)
        return Outcome(
            source=z[:1] if self.recording is None else self.recording.path[-1],
            controlled=z[first : first + count],
            uncontrolled=z[first + count :] if self.request.compare else None,
            masks=used,
            passes=self.denoiser.passes - before,
            seconds=time.perf_counter() - started,
        )

    @property
    def _first_target(self) -> int:
        """Index of the first target among the images of the batch."""
        return 1 if self.recording is None else 0

    def _layout(self) -> BatchPlan:
        if self.recording is not None:
            beside = 0 if self.beside is None else self.beside.images
            return cached_layout(self.denoiser, self.trajectory, self.request, beside=beside)
        flat = self.trajectory.one_branch and flat_rows(self.request)
        return joint_layout(self.denoiser, self.trajectory, self.request, flat=flat)

    def _led(self, layout: BatchPlan) -> AbstractContextManager[None]:
        if self.guide is None:
            return nullcontext()
        images = layout.images
        return attach_layouts(self.pipeline, self.guide(images), images=len(images))

    def _attach(self, layout: BatchPlan) -> AbstractContextManager[Handle]:
        method = method_of(self.request, self._masks_of(layout))
        if isinstance(method, MasaCtrl) and self.recording is not None:
            source = self.recording.serving(layout.guided.branches_at)
            source = source if self.beside is None else SideBySide(source, self.beside)
            return method.attach(self.pipeline, layout.rows, source=source, record=self.record)
        said = (self.trajectory.prompt, *self.request.target_prompts)
        # An attachment counts tokens, of which weights have none.
        prompts = [without_weights(said[image]) for image in layout.images]
        return method.attach(self.pipeline, layout.rows, prompts=prompts)

    def _masks_of(self, layout: BatchPlan) -> GivenMasks | WordMasks | None:
        if self.masks is None:
            return None
        if self.recording is None:
            return self.masks.joint(layout.images)
        return self.masks.cached(layout.images)

    def _denoise(self, layout: BatchPlan, handle: Handle) -> Tensor:
        trajectory = self.trajectory
        path = trajectory.latents.to(self.denoiser.device)
        images = self._first_target + len(self.request.target_prompts) * (
            2 if self.request.compare else 1
        )
        joint = self.recording is None
        return denoise(
            layout.guided,
            self._start(path[0], images),
            trajectory.schedule,
            walk=trajectory.walk,
            noise=trajectory.noise,
            path=path if joint and trajectory.replay else None,
            steer=self._steer(path) if trajectory.corrected else None,
            adjust=self._adjust(layout, handle),
            on_step=self.on_step,
        )

    def _start(self, z_t: Tensor, images: int) -> Tensor:
        """The noise of all images: the source's own, and what the targets have of it."""
        share = self.request.fresh_noise
        fresh = freshened(z_t, noise_like(z_t, self.request.seed or 0), share) if share else z_t
        targets = fresh.repeat(images - self._first_target, 1, 1, 1)
        return torch.cat([z_t, targets]) if self._first_target else targets

    def _steer(self, path: Tensor) -> Steer:
        """Take the source's prediction error off every target's prediction."""
        recording, schedule = self.recording, self.trajectory.schedule

        def steer(step: int, z: Tensor, eps: Tensor) -> Tensor:
            if recording is not None and recording.errors is not None:
                return eps + recording.errors[step]
            return eps + (schedule.noise_between(z[:1], path[-1], step) - eps[:1])

        return steer

    def _adjust(self, layout: BatchPlan, handle: Handle) -> Adjust | None:
        """What happens to the latents after every step: a method's own doing, or masactrl's."""
        if isinstance(handle, Attached):
            return self._keep_background(layout, handle)
        after = handle.after_step
        return None if after is None else lambda _level, z: after(z)

    def _keep_background(self, layout: BatchPlan, attached: Attached) -> Adjust | None:
        """Put the source back outside the union of the masks, after every step."""
        masks, count, first = self.masks, len(self.request.target_prompts), self._first_target
        if masks is None or not self.request.keep_background:
            return None
        rows = (layout.source, layout.targets)
        latest: list[Tensor] = []  # masks by words exist at controlled steps only

        def adjust(level: int, z: Tensor) -> Tensor:
            size = (int(z.shape[-2]), int(z.shape[-1]))
            found = masks.union(attached, level - 1, rows, size)
            latest[:] = latest if found is None else [found]
            if not latest:
                return z
            (union,) = latest
            source = z[:1] if self.recording is None else self.recording.path[level]
            targets = z[first : first + count]
            kept = torch.where(union.to(z.device) > 0, targets, source.to(z))
            return torch.cat([z[:first], kept, z[first + count :]])

        return adjust
