"""Edges of pictures, by OpenCV's Canny: white lines on black."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masactrl.errors import ConfigError, MissingExtra

__all__ = ["canny"]

Bytes = NDArray[np.uint8]


def canny(picture: Bytes, low: float = 100.0, high: float = 200.0) -> Bytes:
    """Return the edges (h, w) of a picture, 255 on lines and 0 elsewhere.

    Args:
        picture: (h, w, 3) sRGB or (h, w) grey, bytes.
        low, high: gradients from which a line goes on, and from which it begins, above 0; those
            that ControlNet's edges are usually made with are 100 and 200.

    Raises:
        ConfigError: another shape or type, or ``low`` above ``high``.
        MissingExtra: OpenCV is not installed.
    """
    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2:
        raise ConfigError(
            f"edges are found in bytes (h, w) or (h, w, 3), not {picture.dtype} {picture.shape}."
        )
    if not 0 < low <= high:
        raise ConfigError(f"thresholds {low} and {high} were given; use 0 < low <= high.")
    cv2 = _opencv()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture
    found: Bytes = cv2.Canny(np.ascontiguousarray(grey), low, high)
    return found


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("Finding edges", extra="layout") from error
    return cv2
