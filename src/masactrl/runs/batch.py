"""Who stands where in the batch of an edit, and who reads whom.

    joint    source | targets | the same targets without control
    cached            targets | the same targets without control        the source was recorded,
                                                                        others beside it, too
    alone             targets                                           they read no source

A source whose two guidance branches are the same takes one row in either: joint, the rows are laid
out flat (see `masactrl.models.guided`) and count as one branch; cached, one recorded branch serves
both branches of the targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masactrl.attention import Rows
from masactrl.diffusion.guidance import guided_steps
from masactrl.models.guided import Condition, Guided

if TYPE_CHECKING:
    from masactrl.diffusion import Trajectory
    from masactrl.models.denoiser import Denoiser
    from masactrl.runs.edit_request import ResolvedEdit

__all__ = ["BatchPlan", "alone_layout", "cached_layout", "joint_layout", "source_layout"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchPlan:
    """One batch.

    Attributes:
        guided: predicts the noise of all images.
        rows: who reads whom, as the control is told.
        images: of every row that the control knows, 0 the source, k target k (from 1).
        source: row of the source in the control's masks.
        targets: rows of the targets there.
    """

    guided: Guided
    rows: Rows
    images: tuple[int, ...]
    source: int
    targets: tuple[int, ...]


def joint_layout(
    denoiser: Denoiser, trajectory: Trajectory, request: ResolvedEdit, *, flat: bool
) -> BatchPlan:
    """Return the batch of source and targets; `flat` where the source has one branch."""
    count = len(request.target_prompts)
    conditions = [
        source_condition(
            denoiser,
            trajectory,
            guided_targets=request.guidance_scale != 1,
            within=_within(request, trajectory),
        ),
        *target_conditions(denoiser, trajectory, request),
    ]
    guided = Guided(denoiser, conditions, trajectory.schedule, flat=flat)
    places = guided.images_of_rows if flat else tuple(range(len(conditions)))
    reads = tuple((0,) if place <= count else (row,) for row, place in enumerate(places))
    return BatchPlan(
        guided=guided,
        rows=Rows(images=len(places), reads=reads),
        images=tuple(_twin(place, count) for place in places),
        source=0,
        targets=tuple(places.index(image) for image in range(1, count + 1)),
    )


def cached_layout(
    denoiser: Denoiser, trajectory: Trajectory, request: ResolvedEdit, *, beside: int = 0
) -> BatchPlan:
    """Return the batch of targets whose source was recorded, and so many images beside it."""
    count = len(request.target_prompts)
    conditions = target_conditions(denoiser, trajectory, request)
    images = len(conditions)
    recorded = tuple(range(images, images + 1 + beside))
    reads = tuple(recorded if image < count else (image,) for image in range(images))
    return BatchPlan(
        guided=Guided(denoiser, conditions, trajectory.schedule),
        rows=Rows(images=images, reads=reads, cached=len(recorded)),
        images=tuple(_twin(image + 1, count) for image in range(images)),
        source=images,
        targets=tuple(range(count)),
    )


def alone_layout(denoiser: Denoiser, trajectory: Trajectory, request: ResolvedEdit) -> BatchPlan:
    """Return the batch of targets that read nobody, without their uncontrolled twins."""
    count = len(request.target_prompts)
    conditions = target_conditions(denoiser, trajectory, request)[:count]
    return BatchPlan(
        guided=Guided(denoiser, conditions, trajectory.schedule),
        rows=Rows.plain(images=count),
        images=tuple(range(1, count + 1)),
        source=count,
        targets=tuple(range(count)),
    )


def source_layout(denoiser: Denoiser, trajectory: Trajectory, *, guided_targets: bool) -> BatchPlan:
    """Return the batch of the source alone, with the branches that its targets will read."""
    condition = source_condition(denoiser, trajectory, guided_targets=guided_targets)
    return BatchPlan(
        guided=Guided(denoiser, [condition], trajectory.schedule),
        rows=Rows.plain(images=1),
        images=(0,),
        source=0,
        targets=(),
    )


def _within(request: ResolvedEdit, trajectory: Trajectory) -> range | None:
    """The steps of this trajectory, the whole or the rest of a run, that targets are guided at."""
    if (request.guidance_begin, request.guidance_end) == (0.0, 1.0):
        return None
    steps = guided_steps(request.steps, request.guidance_begin, request.guidance_end)
    before = request.steps - trajectory.steps
    return range(steps.start - before, steps.stop - before)


def source_condition(
    denoiser: Denoiser,
    trajectory: Trajectory,
    *,
    guided_targets: bool,
    within: range | None = None,
) -> Condition:
    """Return what the source is denoised with.

    Args:
        denoiser: the networks.
        trajectory: of the source.
        guided_targets: whether targets have an unconditional branch, which reads the source's.
        within: steps at which they have; a source with guidance of its own has it at all.
    """
    scale = trajectory.guidance
    if trajectory.one_branch or (scale == 1 and not guided_targets):
        return Condition(text=denoiser.encode_text([trajectory.prompt]), scale=scale)
    text = denoiser.encode_text([trajectory.prompt, trajectory.unconditional_prompt])
    return Condition(
        text=text.row(0),
        unconditional=text.row(1),
        scale=scale,
        embeddings=trajectory.unconditional,
        within=within if scale == 1 else None,
    )


def target_conditions(
    denoiser: Denoiser, trajectory: Trajectory, request: ResolvedEdit
) -> list[Condition]:
    """Return what targets, and then their uncontrolled twins, are denoised with."""
    own = request.negative_prompt is None
    negative = trajectory.unconditional_prompt if own else request.negative_prompt
    text = denoiser.encode_text([negative or "", *request.target_prompts])
    scale = request.guidance_scale
    within = _within(request, trajectory)
    conditions = [
        Condition(
            text=text.row(number),
            unconditional=None if scale == 1 else text.row(0),
            scale=scale,
            embeddings=trajectory.unconditional if own and scale != 1 else None,
            within=within,
        )
        for number in range(1, len(request.target_prompts) + 1)
    ]
    return conditions * (2 if request.compare else 1)


def _twin(place: int, count: int) -> int:
    """The target whose prompt and masks the image at a place of the joint batch has."""
    return place - count if place > count else place
