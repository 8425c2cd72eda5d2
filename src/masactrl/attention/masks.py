"""Foreground masks: given as pictures, or asked for by the words of the prompt.

The functions are pure. Masks are float tensors, 1 = foreground, 0 = background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from masactrl.errors import MaskError
from masactrl.settings.checks import settle
from masactrl.settings.mask_input import mask_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "GivenMasks",
    "MaskLike",
    "OnEmpty",
    "WordMasks",
    "Words",
    "binary",
    "key_bias",
    "normalised",
    "resized",
]

MaskLike = Tensor | np.ndarray | Image.Image
Words = str | int | tuple[str | int, ...]
OnEmpty = Literal["raise", "warn"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GivenMasks:
    """One foreground mask per image of the run, in the order of the prompts.

    A mask is a picture, an array or a tensor (h, w) of any size, white for the foreground; see
    `masactrl.settings.mask_input` for transparency, palettes, 16 bits and floats. It is cut at
    `threshold` and resized to each layer by nearest neighbour. None is for images that neither read
    nor are read. `sources` are the masks of recorded sources. An empty or a full mask separates
    nothing and is an error, or a warning where `on_empty` allows it. Raises `MaskError` for NaN,
    values out of range or a wrong number of dimensions.
    """

    images: tuple[MaskLike | None, ...]
    sources: tuple[MaskLike, ...] = ()
    threshold: float = 0.5
    on_empty: OnEmpty = "raise"

    def __post_init__(self) -> None:
        settle(self, MaskError)
        _check_options(self.threshold, self.on_empty)
        images = tuple(_as_mask(mask, f"image {i}") for i, mask in enumerate(self.images))
        sources = tuple(
            _as_mask(mask, f"recorded source {i}") for i, mask in enumerate(self.sources)
        )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "sources", sources)

    def repeated(self, images_per_prompt: int) -> GivenMasks:
        """The same masks for `num_images_per_prompt` images of every prompt."""
        images = tuple(mask for mask in self.images for _ in range(images_per_prompt))
        return GivenMasks(
            images=images,
            sources=self.sources,
            threshold=self.threshold,
            on_empty=self.on_empty,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMasks:
    """Masks cut from the attention that named words receive while the pictures are made.

    `words[i]` names the foreground of image i: a word or phrase of `prompts[i]`, a token number
    (0 is the begin token; on an empty prompt the padding tokens 1, 2, ... act as the object), or
    several of them. `source_words` and `source_prompts` are those of recorded sources. A soft map
    is the mean over heads and over the layers passed so far in this step, summed over the tokens
    and min-max normalised; a token of the picture is foreground where it reaches `threshold`.

    `smoothing` in [0, 1) mixes in the previous step's map (0: the paper's code). `branch` is the
    guidance branch that carries the prompt (the last one in Stable Diffusion pipelines). The maps
    are taken where the grid is smaller than the latent by the factor nearest to `capture_scale`: 4
    is 16x16 for a 512-pixel picture. `on_empty` as in `GivenMasks`. Raises `MaskError` for values
    out of range.
    """

    words: tuple[Words, ...]
    prompts: tuple[str, ...] = ()
    source_words: tuple[Words, ...] = ()
    source_prompts: tuple[str, ...] = ()
    threshold: float = 0.1
    smoothing: float = 0.0
    branch: int = -1
    capture_scale: int = 4
    on_empty: OnEmpty = "warn"

    def __post_init__(self) -> None:
        settle(self, MaskError)
        _check_options(self.threshold, self.on_empty)
        if not 0.0 <= self.smoothing < 1.0:
            raise MaskError(
                f"smoothing={self.smoothing} was given; accepted is 0 (none) to below 1."
            )
        if self.capture_scale < 1:
            raise MaskError(f"capture_scale={self.capture_scale} was given; use 1 or more.")
        for name in ("words", "source_words"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise MaskError(
                    f"{name}={value!r} was given; give one entry per image, as in ({value!r}, ...)."
                )
            object.__setattr__(self, name, tuple(_as_words(entry) for entry in value))

    def repeated(self, images_per_prompt: int) -> WordMasks:
        """The same words for `num_images_per_prompt` images of every prompt."""
        return WordMasks(
            words=tuple(entry for entry in self.words for _ in range(images_per_prompt)),
            prompts=tuple(prompt for prompt in self.prompts for _ in range(images_per_prompt)),
            source_words=self.source_words,
            source_prompts=self.source_prompts,
            threshold=self.threshold,
            smoothing=self.smoothing,
            branch=self.branch,
            capture_scale=self.capture_scale,
            on_empty=self.on_empty,
        )


def normalised(maps: Tensor) -> Tensor:
    """Min-max normalisation of each map (images, height, width) to [0, 1]; a flat map is all 0."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    extent = maps.amax(dim=(1, 2), keepdim=True) - low
    return (maps - low) / torch.where(extent > 0, extent, torch.ones_like(extent))


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of (images, h, w) to (images, height, width)."""
    return functional.interpolate(maps[:, None], (height, width), mode="nearest")[:, 0]


def binary(maps: Tensor, threshold: float) -> Tensor:
    """1 where a map reaches the threshold, else 0; any shape, same dtype."""
    return (maps >= threshold).to(maps.dtype)


def key_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask that leaves a layer only the allowed keys; `dtype` is that of its scores.

    `allowed` is (rows, keys) in {0, 1}; returns (rows, 1, keys) with 0 for allowed keys and the
    most negative finite number for the others. Finite, so that a row without any allowed key gets
    the uniform average, as in the paper's code, and no NaN. In float16 it is half of that: added to
    a score of -16 the whole range is -inf already. One row of keys serves all queries: no tokens x
    tokens tensor is built.
    """
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    lowest = torch.finfo(dtype).min / (2 if dtype == torch.float16 else 1)
    return bias.masked_fill(allowed < 0.5, lowest)[:, None, :]


def _check_options(threshold: float, on_empty: str) -> None:
    if not 0.0 < threshold <= 1.0:
        raise MaskError(f"threshold={threshold} was given; accepted is above 0 and up to 1.")
    if on_empty not in ("raise", "warn"):
        raise MaskError(f"on_empty={on_empty!r} was given; accepted are 'raise' and 'warn'.")


def _as_words(entry: Words | Sequence[str | int]) -> tuple[str | int, ...]:
    words = (entry,) if isinstance(entry, (str, int)) else tuple(entry)
    if not words:
        raise MaskError("An image has no words to mask by; name at least one word or token.")
    return words


def _as_mask(mask: MaskLike | None, whose: str) -> Tensor | None:
    """(h, w) float32 in [0, 1] on the CPU; a copy, not a view."""
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        values = mask.detach().cpu()
        mask = (values.float() if values.is_floating_point() else values).numpy()
    if not isinstance(mask, Image.Image | np.ndarray):
        raise MaskError(
            f"The mask of {whose} is a {type(mask).__name__}; accepted are pictures, arrays and "
            "tensors (height, width)."
        )
    return torch.from_numpy(np.array(mask_of(mask, whose)))
