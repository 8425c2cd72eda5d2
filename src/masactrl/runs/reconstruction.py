"""How near one picture is to another, in the one figure that reconstructions are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Reconstruction", "psnr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """How well the source came back; peak signal to noise ratios in decibels, higher is nearer.

    Attributes:
        psnr: reconstruction against input.
        ceiling: what the VAE alone gives against the input; no method that works on latents can
            be expected to do better.
        psnr_to_vae: reconstruction against the VAE's picture; infinite where they are the same.
    """

    psnr: float
    ceiling: float
    psnr_to_vae: float


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Return the peak signal to noise ratio of two RGB pictures of equal size, in decibels."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
