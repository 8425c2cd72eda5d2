"""What every image of a run is denoised with, laid out as the rows of one batch.

    in branches   [u_1 .. u_n | c_1 .. c_n]      as diffusers' pipelines have it
    flat          [c_1, u_2, c_2, u_3, c_3 ...]  an image without a second branch takes one row

Flat saves the source's second branch where both are the same (a null prompt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from masactrl.diffusion.guidance import guided
from masactrl.models.denoiser import Denoiser, Text

if TYPE_CHECKING:
    from masactrl.diffusion.noise import NoiseSchedule

__all__ = ["Condition", "Guided"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Condition:
    """What one image is denoised with.

    Attributes:
        text: its prompt, one row.
        unconditional: what guidance leads away from, one row; None when no second branch is
            needed, because it would be the same or because the guidance is 1.
        scale: weight of the guidance.
        embeddings: per-step hidden states (steps, words, width) that take the place of the
            unconditional ones, or None.
        within: steps at which guidance acts; None is all. Where no image of a batch in branches has
            it, the unconditional branch is not computed.
    """

    text: Text
    unconditional: Text | None = None
    scale: float = 1.0
    embeddings: Tensor | None = None
    within: range | None = None


class Guided:
    """Predicts the noise of several images at once; `images_of_rows` tells which row is whose.

    Args:
        denoiser: the networks.
        conditions: one per image.
        schedule: of the run.
        flat: whether rows are laid out flat; else in branches, two when any image needs a second.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Sequence[Condition],
        schedule: NoiseSchedule,
        *,
        flat: bool = False,
    ) -> None:
        self._denoiser, self._schedule = denoiser, schedule
        self._conditions = tuple(conditions)
        two = [one.unconditional is not None and not denoiser.reads_guidance for one in conditions]
        numbers = range(len(self._conditions))
        plan: list[tuple[int, bool]]  # (image, whether the row is unconditional)
        if flat:
            plan = [(i, u) for i in numbers for u in ((True, False) if two[i] else (False,))]
        else:
            plan = [(i, u) for u in ((True, False) if any(two) else (False,)) for i in numbers]
        device = denoiser.device
        self.images_of_rows = tuple(image for image, _ in plan)
        self.branches = 1 if flat else len(plan) // len(self._conditions)
        self._plan = plan
        self._image = torch.tensor(self.images_of_rows, device=device)
        c = {image: row for row, (image, is_u) in enumerate(plan) if not is_u}
        u = {image: row for row, (image, is_u) in enumerate(plan) if is_u}
        self._c = torch.tensor([c[i] for i in numbers], device=device)
        self._u = torch.tensor([u.get(i, c[i]) for i in numbers], device=device)
        scales = [one.scale for one in conditions]
        self._scale = torch.tensor(scales, dtype=torch.float32, device=device)
        self._text = Text.cat([self._row(image, is_u) for image, is_u in plan])
        self._changing = any(one.embeddings is not None for one in conditions)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self._plan)

    def __call__(self, z: Tensor, step: float) -> Tensor:
        """Return the guided output (images, c, h, w) for latents of that shape."""
        timestep = self._schedule.timestep(step)
        text = self._text_at(int(step))
        if self.branches_at(step) < self.branches:
            images = len(self._conditions)
            prompts = text.rows(slice(images, None))
            return self._denoiser.predict(z, timestep, prompts, scale=self._scale)
        scale = self._scale[self._image]
        output = self._denoiser.predict(z[self._image], timestep, text, scale=scale)
        c = output[self._c]
        if self.rows == len(self._conditions):
            return c
        acting = [one.within is None or int(step) in one.within for one in self._conditions]
        return guided(output[self._u], c, self._scales(acting)[:, None, None, None])

    def branches_at(self, step: float) -> int:
        """Return how many guidance branches the batch has at a step."""
        if self.branches == 1 or any(self._guides(one, step) for one in self._conditions):
            return self.branches
        return 1

    def _guides(self, condition: Condition, step: float) -> bool:
        """Whether guidance acts on an image at a step."""
        there = condition.unconditional is not None
        return there and (condition.within is None or int(step) in condition.within)

    def _scales(self, acting: Sequence[bool]) -> Tensor:
        """The scale of every image, 1 where guidance does not act."""
        if all(acting):
            return self._scale
        on = torch.tensor(acting, device=self._scale.device)
        return torch.where(on, self._scale, torch.ones_like(self._scale))

    def _row(self, image: int, is_u: bool) -> Text:
        condition = self._conditions[image]
        if is_u and condition.unconditional is not None:
            return condition.unconditional
        return condition.text

    def _text_at(self, step: int) -> Text:
        """The text of all rows, with the unconditional embeddings of this step."""
        if not self._changing:
            return self._text
        hidden = list(self._text.hidden.split(1))
        for row, (image, is_u) in enumerate(self._plan):
            embeddings = self._conditions[image].embeddings
            if is_u and embeddings is not None:
                hidden[row] = embeddings[step : step + 1].to(self._text.hidden)
        return self._text.with_hidden(torch.cat(hidden))
