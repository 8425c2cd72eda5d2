"""PuppetBench's figures of one edited picture, and the bounds within which it passes.

    asked       the picture shows what the target prompt asks for: action, facing or close-up
    E           identity error: colours and pattern against the source, `masactrl.puppets.identity`
    collar      whether there is one, as in the source
    PSNR, SSIM  against the source, where neither the source nor a right answer has its animal
    IoU         foreground against the best of the poses that the target allows
    distance    RMSE to the nearest right answer (rendered sources only)
    joints      share of them within 5 % of the height of their place (tasks of the kind layout)

Right answers are not one picture: the joints of a pose may lie a little differently and the animal
may stand elsewhere. So a task has `CANDIDATES` drawn ones, and the best counts. They are drawn from
the exact scene; of a synthesised source species, place and pose are those of its prompt.

A layout tells every joint, so its task has one right answer, and `asked` is at least `JOINTS` of
them. Of drawn right answers of the tuning split 97 % have as many, by the inspector; of sources
0.5 %, and of the target's words drawn where the source stands 7 %.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.bench.puppet_tasks import LAYOUT
from masactrl.errors import MissingExtra
from masactrl.puppets.identity import SAME, Identity, identity
from masactrl.puppets.renderer import Rendered, render
from masactrl.puppets.scene import BACKDROPS, JITTERS, Camera, Pose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.bench.puppet_tasks import PuppetTask
    from masactrl.puppets.judging import JudgedBatch

__all__ = ["BOUNDS", "CANDIDATES", "JOINTS", "Bounds", "ItemFigures", "judge", "right_answers"]

CANDIDATES = 24
JOINTS = 0.8
"""Share of the joints that a picture led by a layout must show in their places."""

_NEAR = 0.05  # of the picture's height, within which a joint is in its place
_GROW = 3  # pixels around animals that count as neither animal nor background
_MOST_DB = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a picture must reach to pass; chosen before any method was measured.

    Collars are shown but not asked for: the inspector reads too many of them wrongly. `identity` is
    chosen by truth alone, see `masactrl.puppets.identity`; `background` and
    `overlap` are what an unchanged place and a well-hit pose stay above with room to spare.
    """

    identity: float = SAME
    background: float = 18.0
    overlap: float = 0.5


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFigures:
    """One picture's figures, see the head of this file; None where one has no meaning.

    Shares are 0 or 1, but for `joints`, in [0, 1]. `background` is in dB, at most 60; `similarity`
    is SSIM; `overlap` is IoU and `distance` RMSE, both in [0, 1]. A close-up shows another cut of
    the place: no background there.
    """

    asked: float
    species: float
    identity: float
    named: float
    coat: float
    pattern: float
    collar: float
    background: float | None
    similarity: float | None
    overlap: float
    distance: float | None
    passed: float
    joints: float | None = None

    def values(self) -> dict[str, float | None]:
        """The figures by name."""
        return asdict(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all figures."""
        return tuple(field.name for field in fields(cls))


def right_answers(task: PuppetTask, size: int) -> Rendered:
    """`CANDIDATES` right answers of a task, drawn from a generator of its own; of a layout one."""
    if task.kind == LAYOUT:
        return render([task.target], size)
    generator = torch.Generator().manual_seed(task.noise_seed)
    scenes = [task.target]
    for _ in range(CANDIDATES - 1):
        u = (torch.rand(JITTERS + 3, generator=generator, dtype=torch.float64) * 2 - 1).tolist()
        pose, camera = task.target.pose, task.target.camera
        scenes.append(
            replace(
                task.target,
                pose=Pose(action=pose.action, facing=pose.facing, jitter=tuple(u[:JITTERS])),
                camera=Camera(shot=camera.shot, offset=tuple(u[JITTERS:])),
            )
        )
    if task.half == "synthesised":
        # Proportions and place are the model's; the masks of a middle animal stand for them.
        middle = (1.0,) * len(task.target.identity.proportions)
        scenes = [
            replace(
                scene,
                identity=replace(scene.identity, proportions=middle),
                backdrop=replace(scene.backdrop, parameters=(0.5,) * BACKDROPS),
            )
            for scene in scenes
        ]
    return render(scenes, size)


def judge(
    tasks: Sequence[PuppetTask],
    source: JudgedBatch,
    target: JudgedBatch,
    answers: Sequence[Rendered],
    *,
    source_masks: Tensor | None = None,
    bounds: Bounds = BOUNDS,
) -> tuple[ItemFigures, ...]:
    """Judge n edited pictures against their sources.

    Args:
        tasks: n tasks.
        source, target: n pictures each, and what the inspector reads in them.
        answers: n times the right answers.
        source_masks: (n, 1, h, w) exact foreground of the sources; None takes the inspector's.
        bounds: what a picture must reach to pass.
    """
    masks = source.reading.mask if source_masks is None else source_masks
    apart = identity(source.reading, target.reading)
    return tuple(
        _judge_one(k, task, (source, target), answers[k], masks[k], apart, bounds)
        for k, task in enumerate(tasks)
    )


def _judge_one(
    k: int,
    task: PuppetTask,
    judged: tuple[JudgedBatch, JudgedBatch],
    answers: Rendered,
    source_mask: Tensor,
    apart: Identity,
    bounds: Bounds,
) -> ItemFigures:
    was, seen = judged[0].reading, judged[1].reading
    first, second = judged[0].pictures[k], judged[1].pictures[k]
    best, overlap = _best(answers.mask[:, 0], seen.mask[k, 0])
    joints = _joints(seen.keypoints[k], answers) if task.kind == LAYOUT else None
    asked = _asked(task, seen, k) if joints is None else float(joints >= JOINTS)
    error = float(apart.error[k])
    collar = float(seen.collar[k] == was.collar[k])
    species = float(seen.species[k] == was.species[k])
    background = similarity = distance = None
    if task.kind != "close-up":
        ground = _ground(torch.maximum(source_mask[0], answers.mask[best, 0]))
        background, similarity = _psnr(first, second, ground), _ssim(first, second, ground)
    if task.half == "rendered":
        distance = float((answers.image - second).square().mean((1, 2, 3)).sqrt().min())
    passed = (
        asked * species == 1.0
        and error <= bounds.identity
        and overlap >= bounds.overlap
        and (background is None or background >= bounds.background)
    )
    return ItemFigures(
        asked=asked,
        species=species,
        identity=error,
        named=float(apart.named[k]),
        coat=float(apart.coat[k]),
        pattern=float(seen.pattern[k] == was.pattern[k]),
        collar=collar,
        background=background,
        similarity=similarity,
        overlap=overlap,
        distance=distance,
        passed=float(passed),
        joints=joints,
    )


def _asked(task: PuppetTask, seen: Any, k: int) -> float:
    """1 where action, facing and shot are those of the target (a close-up hides the action)."""
    if task.kind == "close-up":
        return float(seen.shot[k] == "close-up" and seen.facing[k] == task.target.pose.facing)
    return float(
        seen.action[k] == task.target.pose.action
        and seen.facing[k] == task.target.pose.facing
        and seen.shot[k] == task.target.camera.shot
    )


def _joints(seen: Tensor, right: Rendered) -> float:
    """Share of the joints (joints, 2) in the picture that are where the right answer has them."""
    height, width = right.image.shape[-2:]
    wanted = right.keypoints[0]
    inside = ((wanted >= 0) & (wanted <= wanted.new_tensor((width, height)))).all(-1)
    near = (seen - wanted).norm(dim=-1) <= _NEAR * height
    return float(near[inside].float().mean())


def _best(candidates: Tensor, mask: Tensor) -> tuple[int, float]:
    """The candidate (c, h, w) whose foreground overlaps most with a mask (h, w), and its IoU."""
    ours, theirs = mask > 0.5, candidates > 0.5
    both = (ours & theirs).sum((1, 2)).float()
    either = (ours | theirs).sum((1, 2)).float().clamp(min=1)
    overlaps = both / either
    best = int(overlaps.argmax())
    return best, float(overlaps[best])


def _ground(animals: Tensor) -> Tensor:
    """(h, w) 1 where there is background, some pixels away from the animals."""
    grown = F.max_pool2d((animals > 0.5).float()[None, None], 2 * _GROW + 1, 1, _GROW)
    return 1 - grown[0, 0]


def _psnr(first: Tensor, second: Tensor, ground: Tensor) -> float:
    error = ((first - second).square() * ground).sum() / (3 * ground.sum()).clamp(min=1)
    return float((-10 * torch.log10(error.clamp(min=1e-9))).clamp(max=_MOST_DB))


def _ssim(first: Tensor, second: Tensor, ground: Tensor) -> float:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise MissingExtra("the benchmark's structural similarity", "bench") from error
    whole = structural_similarity_index_measure(
        second[None], first[None], data_range=1.0, return_full_image=True
    )
    full: Tensor = whole[1][0].mean(0)
    return float((full * ground).sum() / ground.sum().clamp(min=1))
