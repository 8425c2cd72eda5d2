"""Figures of a comparison: what the inspector of the embedded world reads in its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masactrl.errors import ModelNotFound
from masactrl.pictures.images import image_to_tensor
from masactrl.settings.prompt_weights import without_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from masactrl.puppets.inspector import Inspector

__all__ = ["ComparisonFigures", "read_figures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonFigures:
    """What the inspector of the embedded world reads in one picture, against the source.

    Attributes:
        seen: species, action, facing and place, in words.
        action_right: whether that is the action the target prompt names; None if it names none.
        identity_error: colours and pattern against the source, see `masactrl.puppets.identity`; 0
            is the same animal, up to 12 looks like it.
        background: PSNR in dB against the source where neither shows an animal, at most 60.
    """

    seen: str
    action_right: bool | None
    identity_error: float
    background: float


def read_figures(
    pictures: Sequence[Image.Image], target_prompt: str, *, inspector: Inspector | None = None
) -> tuple[ComparisonFigures, ...] | None:
    """Return what the embedded inspector reads in pictures of its world, the source first.

    None when this installation has no inspector and none is given.
    """
    import torch

    from masactrl.puppets.captions import parse
    from masactrl.puppets.identity import identity
    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.judging import background_psnr

    try:
        reader = inspector or Inspector.load()
    except ModelNotFound:
        return None
    batch = torch.stack([image_to_tensor(picture, signed=False) for picture in pictures])
    seen = reader.read(batch)
    asked = parse(without_weights(target_prompt)).action
    count = len(pictures)
    apart = identity(reader.read(batch[:1]), seen).error
    source = batch[:1].expand(count, -1, -1, -1)
    ground = background_psnr(source, batch, torch.maximum(seen.mask, seen.mask[:1]))
    return tuple(
        ComparisonFigures(
            seen=f"{seen.species[k]} {seen.action[k]}, facing {seen.facing[k]}, {seen.place[k]}",
            action_right=None if asked is None else seen.action[k] == asked,
            # The source is itself, whatever reading it in other company rounds to.
            identity_error=float(apart[k]) if k else 0.0,
            background=float(ground[k]),
        )
        for k in range(count)
    )
