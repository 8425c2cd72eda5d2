"""Masks at the door: any picture or array that somebody paints becomes (height, width) in [0, 1].

White is the subject, black the background. What a paint program saves beside that:

    alpha       transparent is background: white painted on nothing marks what was painted. Where
                nothing opaque is white (paint in the alpha channel alone), or the opaque part is a
                picture itself (a cut-out), what is opaque is the subject
    two levels  both below the middle (0 and 1, a palette's dark red): the brighter is the subject
    16 bits     0 to 65535; floats 0 to 1
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

from masactrl.errors import MaskError

__all__ = ["mask_of"]

_MIDDLE: Final = 0.5
_CUT_OUT: Final = 0.25  # share of the opaque part in neither black nor white that makes a picture


def mask_of(mask: Image.Image | np.ndarray, whose: str = "the picture") -> np.ndarray:
    """Return the mask, float32 (height, width) in [0, 1]; what is 0.5 and more is the subject.

    Args:
        mask: a picture of any mode, or an array (height, width), or (height, width, channels) of
            bytes with 1 to 4 channels.
        whose: for the sentence of an error.

    Raises:
        MaskError: it has another shape, or values that are no mask's.
    """
    if isinstance(mask, Image.Image):
        return _two_levels(_of_picture(mask, whose))
    array = np.asarray(mask)
    if array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] in (1, 2, 3, 4):
        modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
        pixels = array[:, :, 0] if array.shape[2] == 1 else array
        picture = Image.fromarray(np.ascontiguousarray(pixels)).convert(modes[array.shape[2]])
        return _two_levels(_of_picture(picture, whose))
    if array.ndim != 2 or array.size == 0:
        raise MaskError(
            f"The mask of {whose} has shape {array.shape}; accepted is one non-empty "
            "(height, width) mask per image, without channels."
        )
    return _two_levels(_of_values(array, whose))


def _of_picture(picture: Image.Image, whose: str) -> np.ndarray:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("F", "I") or upright.mode.startswith("I;16"):
        return _of_values(np.asarray(upright), whose)
    if not upright.has_transparency_data:
        return np.asarray(upright.convert("L"), np.float32) / 255
    layered = np.asarray(upright.convert("RGBA"), np.float32) / 255
    grey = layered[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    alpha = layered[..., 3]
    opaque = grey[alpha >= _MIDDLE]
    between = ((opaque > 0.1) & (opaque < 0.9)).mean() if opaque.size else 0.0
    drawn_in_alpha = alpha.min() < _MIDDLE and opaque.size > 0
    if drawn_in_alpha and (opaque.max() < _MIDDLE or between > _CUT_OUT):
        return alpha
    return grey * alpha


def _of_values(values: np.ndarray, whose: str) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.float32)
    whole = np.issubdtype(values.dtype, np.integer)
    if not whole and not np.issubdtype(values.dtype, np.floating):
        raise MaskError(f"The mask of {whose} holds {values.dtype}; accepted are numbers.")
    found = values.astype(np.float64)
    if not np.isfinite(found).all():
        raise MaskError(f"The mask of {whose} holds NaN or infinity; accepted are finite numbers.")
    white = 1.0
    if whole:
        most = float(found.max())
        white = 1.0 if most <= 1 else 255.0 if most <= 255 else 65535.0
    if float(found.min()) < 0.0 or float(found.max()) > white:
        raise MaskError(
            f"The mask of {whose} has values from {float(found.min()):g} to "
            f"{float(found.max()):g}; accepted are 0 to 1, whole numbers 0 to 255 or 65535."
        )
    return (found / white).astype(np.float32)


def _two_levels(values: np.ndarray) -> np.ndarray:
    """The same, the brighter of two levels white where both lie below the middle."""
    most: Any = values.max()
    if not 0 < most < _MIDDLE:
        return values
    levels = np.unique(values)
    return (values == most).astype(np.float32) if len(levels) == 2 else values
