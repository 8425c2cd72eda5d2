"""The source's features, recorded over its trajectory, kept for any number of edits.

Either in a pass of their own, or while the picture is inverted, where the inversion asks the
network about the very latents of its trajectory (`visits`).
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from masactrl.attention import Positions, Rows, Schedule, SourceFeatures, attach, network_of
from masactrl.diffusion import denoise
from masactrl.runs.batch import source_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from masactrl.attention import WordMasks
    from masactrl.diffusion import NoiseSchedule, OnStep, Trajectory
    from masactrl.models.denoiser import Denoiser
    from masactrl.models.loading import Pipeline
    from masactrl.runs.edit_request import Keep, ResolvedEdit
    from masactrl.runs.masks import MaskPlan

__all__ = ["RecordedSource", "RecordingKey", "record_source", "recorded_on_the_way"]


class FileCache(SourceFeatures):
    """A `SourceFeatures` whose tensors lie in files, mapped into memory when they are read.

    The files go when the cache does.
    """

    def __init__(self, *, dtype: torch.dtype | None = None) -> None:
        super().__init__(dtype=dtype, device="cpu")
        self._folder = Path(tempfile.mkdtemp(prefix="masactrl-source-"))
        self._files = 0
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def _kept(self, tensor: Tensor) -> Tensor:
        kept = super()._kept(tensor).contiguous()
        self._files += 1
        path = self._folder / str(self._files)
        mapped = torch.from_file(str(path), shared=True, size=kept.numel(), dtype=kept.dtype)
        return mapped.reshape(kept.shape).copy_(kept)


class UpwardCache(SourceFeatures):
    """What a run in the order of an inversion, cleanest level first, puts into another cache.

    Where a level is asked about several times, its last time counts.
    """

    def __init__(self, recorded: SourceFeatures, steps: int) -> None:
        super().__init__()
        self._recorded, self._steps = recorded, steps

    def clear(self) -> None:
        """Forget everything."""
        self._recorded.clear()

    def put(
        self,
        step: int,
        timestep: float,
        layer: int,
        hidden: Tensor,
        images: int,
        *,
        part: int = 0,
        call: int = 0,  # noqa: ARG002
    ) -> None:
        """Keep the hidden states under the step of the way down."""
        down = self._steps - 1 - step
        self._recorded.put(down, timestep, layer, hidden, images, part=part)


class SharedBranch(SourceFeatures):
    """A recording as a run of that many guidance branches reads it.

    A source whose branches are the same was recorded once and serves all; targets without guidance,
    of the run or of a step, read the branch of the prompts, the last.
    """

    def __init__(self, recorded: SourceFeatures, branches_at: Callable[[int], int]) -> None:
        super().__init__()
        self._recorded, self._branches_at = recorded, branches_at
        self.images = recorded.images

    def get(
        self, step: int, timestep: float, layer: int, *, part: int = 0, call: int = 0
    ) -> Tensor:
        """The hidden states (branches, images, tokens, channels) for one layer call."""
        kept = self._recorded.get(step, timestep, layer, part=part, call=call)
        branches = self._branches_at(step)
        if kept.shape[0] == 1:
            return kept.expand(branches, *kept.shape[1:])
        return kept[-branches:]

    def get_map(self, step: int, timestep: float, layer: int) -> Tensor:
        """The source's attention maps (images, tokens) of one cross-attention layer."""
        return self._recorded.get_map(step, timestep, layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingKey:
    """What a recording can serve.

    Attributes:
        start_step: first recorded step.
        start_layer: first recorded layer.
        guided: whether targets have an unconditional branch.
        keep: where it is kept.
        half: whether in half precision.
        words: of the source, for masks by words.
        near: whether the features are, or may be, those of the neighbouring noise level.
        matched: whether with the features that positions are matched by.
    """

    start_step: int
    start_layer: int
    guided: bool
    keep: Keep
    half: bool
    words: object = None
    near: bool = False
    matched: bool = False

    def serves(self, other: RecordingKey) -> bool:
        """Say whether a recording of this key has all that is wanted by `other`."""
        return (
            self.start_step <= other.start_step
            and self.start_layer <= other.start_layer
            and (self.guided, self.keep, self.half) == (other.guided, other.keep, other.half)
            and (other.words is None or self.words == other.words)
            and self.near <= other.near
            and (self.matched or not other.matched)
        )

    @classmethod
    def of(
        cls, request: ResolvedEdit, masks: MaskPlan | None, trajectory: Trajectory
    ) -> RecordingKey:
        """Return what an edit needs."""
        return cls.needed(request, masks, one_branch=trajectory.one_branch)

    @classmethod
    def needed(
        cls, request: ResolvedEdit, masks: MaskPlan | None = None, *, one_branch: bool
    ) -> RecordingKey:
        """Return what an edit needs of a source whose guidance branches are the same, or not."""
        return cls(
            start_step=request.start_step,
            start_layer=request.start_layer,
            guided=request.guidance_scale != 1 and not one_branch,
            keep=request.keep,
            half=request.half,
            words=repr(masks.source) if masks is not None and masks.by_words else None,
            near=request.mode == "ahead",
            matched=request.positions == "matched",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedSource:
    """One recorded source.

    Attributes:
        key: what it serves.
        cache: its features.
        path: its latents at all levels (steps + 1, 1, c, h, w).
        errors: per step what has to be added to the prediction to be right (steps, 1, c, h, w);
            None where targets are not corrected.
        passes: rows that went through the U-Net.
        seconds: that it took.
    """

    key: RecordingKey
    cache: SourceFeatures
    path: Tensor
    errors: Tensor | None
    passes: int
    seconds: float

    def serving(self, branches_at: Callable[[int], int]) -> SourceFeatures:
        """Return the features for targets of so many guidance branches at a step."""
        return SharedBranch(self.cache, branches_at)


def record_source(
    denoiser: Denoiser,
    pipeline: Pipeline,
    trajectory: Trajectory,
    key: RecordingKey,
    *,
    words: WordMasks | None = None,
    on_step: OnStep | None = None,
) -> RecordedSource:
    """Run the source alone along its trajectory and keep what targets will read.

    A source that is put back at every step needs only the steps that are read, and the first, from
    which an attachment counts.
    """
    started, before = time.perf_counter(), denoiser.passes
    cache = _cache(key, denoiser.dtype)
    layout = source_layout(denoiser, trajectory, guided_targets=key.guided)
    schedule = trajectory.schedule
    path = trajectory.latents.to(denoiser.device)
    visited: list[Tensor] = [path[0]]
    errors: list[Tensor] = []

    def steer(step: int, z: Tensor, eps: Tensor) -> Tensor:
        errors.append(schedule.noise_between(z, path[-1], step) - eps)
        return eps

    def keep(_level: int, z: Tensor) -> Tensor:
        visited.append(z)
        return z

    window = Schedule(start_step=key.start_step, start_layer=key.start_layer)
    positions = Positions(policy="matched") if key.matched else None
    # In joint attention words and matches are read at the step before.
    behind = network_of(pipeline)[0].joint and (words is not None or key.matched)
    first = max(0, key.start_step - behind)
    with (
        torch.no_grad(),
        denoiser.timetable(schedule),
        attach(
            pipeline,
            None,
            rows=layout.rows,
            schedule=window,
            masks=words,
            record=cache,
            positions=positions,
        ),
    ):
        if trajectory.replay and not trajectory.corrected:
            for step in sorted({0, *range(first, schedule.steps)}):
                layout.guided(path[step], step)
                if on_step is not None:
                    on_step(step, schedule.timesteps[step])
        else:
            denoise(
                layout.guided,
                path[0],
                schedule,
                walk=trajectory.walk,
                noise=trajectory.noise,
                path=path if trajectory.replay else None,
                steer=steer if trajectory.corrected else None,
                adjust=keep,
                on_step=on_step,
            )
    return RecordedSource(
        key=replace(key, near=False),
        cache=cache,
        path=path if len(visited) == 1 else torch.stack(visited),
        errors=torch.stack(errors) if errors else None,
        passes=denoiser.passes - before,
        seconds=time.perf_counter() - started,
    )


@contextmanager
def recorded_on_the_way(
    denoiser: Denoiser, pipeline: Pipeline, schedule: NoiseSchedule, key: RecordingKey
) -> Iterator[SourceFeatures]:
    """Record inside the `with` block, in which the one picture is inverted.

    Args:
        denoiser: that the inversion asks.
        pipeline: whose network it is.
        schedule: of the inversion.
        key: what will be read.
    """
    Schedule(start_step=key.start_step).resolve_steps(schedule.timesteps)  # refuses S beyond it
    cache = _cache(key, denoiser.dtype)
    upwards = replace(schedule, timesteps=schedule.timesteps[::-1])
    window = Schedule(
        steps=tuple(range(schedule.steps - key.start_step)), start_layer=key.start_layer
    )
    record = UpwardCache(cache, schedule.steps)
    with (
        denoiser.timetable(upwards),
        attach(pipeline, None, rows=Rows.plain(images=1), schedule=window, record=record),
    ):
        yield cache


def _cache(key: RecordingKey, dtype: torch.dtype) -> SourceFeatures:
    kept = torch.float16 if key.half and dtype.itemsize > 2 else None
    if key.keep == "disk":
        return FileCache(dtype=kept)
    return SourceFeatures(dtype=kept, device="cpu" if key.keep == "memory" else None)
