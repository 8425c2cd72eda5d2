"""The masks of an edit: laid on the model's grid, handed to the control, kept for the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from masactrl.attention import GivenMasks, WordMasks
from masactrl.errors import MaskError
from masactrl.settings.prompt_weights import without_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.attention import Attached
    from masactrl.attention.masks import OnEmpty
    from masactrl.pictures.input import Framing
    from masactrl.runs.edit_request import EditMasks

__all__ = ["MaskPlan", "plan_masks"]

_OBJECT_OF_NOTHING = (1, 2)
"""Tokens that act as the object of a null prompt (advice of the paper's authors)."""

_PROPORTION = 0.02  # by which the sides of a mask may be out of proportion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskPlan:
    """The masks of one source and its targets.

    Attributes:
        source: (height, width) in {0, 1} at the model's pixels, or words.
        targets: the same, one per target.
        by_words: which of the two.
        threshold: of words.
        source_prompt: what the words of the source belong to.
        target_prompts: what the words of the targets belong to.
    """

    source: Any
    targets: tuple[Any, ...]
    by_words: bool
    threshold: float
    source_prompt: str
    target_prompts: tuple[str, ...]

    def joint(self, images: Sequence[int]) -> GivenMasks | WordMasks:
        """Return the control's masks for a batch that begins with the source.

        Args:
            images: of every row of a branch, 0 for the source, k for target k (from 1), also for
                its uncontrolled twin.
        """
        each = (self.source, *self.targets)
        chosen = tuple(each[image] for image in images)
        if self.by_words:
            prompts = (self.source_prompt, *self.target_prompts)
            return WordMasks(
                words=chosen,
                prompts=tuple(prompts[image] for image in images),
                threshold=self.threshold,
            )
        return GivenMasks(images=chosen, on_empty="warn")  # looked at already

    def cached(self, images: Sequence[int]) -> GivenMasks | WordMasks:
        """Return the control's masks for a batch of targets whose source was recorded.

        Args:
            images: of every row of a branch, k for target k (from 1).
        """
        chosen = tuple(self.targets[image - 1] for image in images)
        if self.by_words:
            return WordMasks(
                words=chosen,
                prompts=tuple(self.target_prompts[image - 1] for image in images),
                source_words=(self.source,),
                source_prompts=(self.source_prompt,),
                threshold=self.threshold,
            )
        return GivenMasks(images=chosen, sources=(self.source,), on_empty="warn")

    def recording(self) -> WordMasks | None:
        """Return what has to be recorded of the source beside its features."""
        if not self.by_words:
            return None
        return WordMasks(
            words=(self.source,),
            prompts=(self.source_prompt,),
            source_words=(self.source,),
            source_prompts=(self.source_prompt,),
            threshold=self.threshold,
        )

    def union(
        self, attached: Attached, step: int, rows: tuple[int, Sequence[int]], size: tuple[int, int]
    ) -> Tensor | None:
        """Return where targets may differ from the source (targets, 1, h, w) in {0, 1}.

        Args:
            attached: the control at work, for masks by words.
            step: which has just been made.
            rows: of the source and of each target in the masks that the control used.
            size: (h, w) of the latents.

        Returns None while masks by words do not exist yet.
        """
        if self.by_words:
            found = _finest(attached, step)
            if found is None:
                return None
            source, targets = found[rows[0]], found[list(rows[1])]
            both = torch.maximum(targets.float(), source.float())
            return functional.interpolate(both[:, None], size, mode="nearest")
        return self.region(size)

    def region(self, size: tuple[int, int]) -> Tensor:
        """The same of masks that are pictures, which need no control at work."""
        both = torch.stack([torch.maximum(self.source, target) for target in self.targets])
        # A cell belongs to the subject where any of its pixels does.
        return functional.adaptive_max_pool2d(both[:, None], size)

    def used(
        self, attached: Attached, rows: tuple[int, Sequence[int]], framing: Framing
    ) -> tuple[Image.Image, ...] | None:
        """Return the masks of the source and of every target as pictures of the input's size.

        Masks by words are those of the last controlled step at the finest layer; None where no
        step was controlled.
        """
        if self.by_words:
            steps = [step for step, _ in attached.report.masks]
            found = _finest(attached, max(steps)) if steps else None
            if found is None:
                return None
            return tuple(_drawn(found[row], framing) for row in (rows[0], *rows[1]))
        return tuple(_drawn(one, framing) for one in (self.source, *self.targets))


def plan_masks(
    masks: EditMasks, framing: Framing, source_prompt: str, target_prompts: tuple[str, ...]
) -> MaskPlan:
    """Return the masks of a request, laid on the model's grid.

    Raises:
        MaskError: a picture is no mask, or not of the input's proportions.
    """
    targets = masks.of_targets(len(target_prompts))
    source = masks.source
    if masks.by_words:
        source = _OBJECT_OF_NOTHING if source is None else source
    else:
        source = _framed(source, framing, "the source", masks.on_empty)
        targets = tuple(
            _framed(mask, framing, f"target {number}", masks.on_empty)
            for number, mask in enumerate(targets, start=1)
        )
    return MaskPlan(
        source=source,
        targets=targets,
        by_words=masks.by_words,
        threshold=masks.threshold,
        source_prompt=without_weights(
            source_prompt
        ),  # words are tokens, of which weights have none
        target_prompts=tuple(map(without_weights, target_prompts)),
    )


def _framed(mask: Any, framing: Framing, whose: str, on_empty: OnEmpty) -> Tensor:
    (values,) = GivenMasks(images=(mask,)).images  # checks it
    pixels = np.asarray(values)
    height, width = pixels.shape
    wanted = framing.original[0] / framing.original[1]
    if abs(width / height / wanted - 1) > _PROPORTION:
        raise MaskError(
            f"The mask of {whose} has {width}x{height} pixels, the picture "
            f"{framing.original[0]}x{framing.original[1]}; give one of the same proportions."
        )
    laid = framing.enter_mask(pixels)
    if on_empty == "raise" and (laid.all() or not laid.any()):
        share = "everything" if laid.all() else "nothing"
        raise MaskError(
            f"The mask of {whose} marks {share}, so it separates nothing; white has to be the "
            "subject, black or transparent the rest. Leave the mask out to control all, or allow "
            'it with EditMasks(on_empty="warn").'
        )
    return torch.from_numpy(laid).float()


def _finest(attached: Attached, step: int) -> Tensor | None:
    """The masks (images, h, w) that the finest layer used at a step."""
    masks = [mask for (at, _), mask in attached.report.masks.items() if at == step]
    return max(masks, key=lambda mask: mask.shape[-2] * mask.shape[-1], default=None)


def _drawn(mask: Tensor, framing: Framing) -> Image.Image:
    small = Image.fromarray(mask.to(torch.uint8).numpy() * 255)
    return framing.leave(small.resize(framing.padded, Image.Resampling.NEAREST), smooth=False)
