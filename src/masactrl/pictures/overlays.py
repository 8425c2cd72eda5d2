"""What lies over a picture: a point, the weights of attention, a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from masactrl.errors import ConfigError
from masactrl.pictures.figures import Figure
from masactrl.pictures.images import Tile, as_rgb

__all__ = [
    "MaskedPicture",
    "SeenPoint",
    "attention_figure",
    "enlarged",
    "heat_over",
    "mask_over",
    "masks_figure",
    "masks_sheet",
    "point_on",
    "spotlight",
]

_SHORTEST = 256  # pixels; smaller pictures are enlarged before anything is drawn on them
_RAMP = np.array([(0, 0, 40), (90, 10, 110), (205, 50, 70), (250, 150, 20), (255, 255, 130)])
_SUBJECT = (255, 60, 60)
_RIM, _POINT = (0, 0, 0), (80, 255, 120)

Weights = np.ndarray
"""(h, w), not negative, of any grid; it is stretched over the whole picture."""


def enlarged(picture: Image.Image, *, least: int = _SHORTEST) -> Image.Image:
    """Return the picture, by a whole factor so large that its longer side has `least` pixels."""
    factor = max(1, -(-least // max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    return as_rgb(picture).resize(size, Image.Resampling.BICUBIC)


def point_on(picture: Image.Image, point: tuple[float, float]) -> Image.Image:
    """Return the picture with a ring around a point, x and y as parts of its size."""
    drawn = as_rgb(picture).copy()
    draw = ImageDraw.Draw(drawn)
    x, y = point[0] * drawn.width, point[1] * drawn.height
    radius = max(4.0, max(drawn.size) / 32)
    line = max(2, round(radius / 3))
    for size, colour, width in ((radius + line / 2, _RIM, 2 * line), (radius, _POINT, line)):
        draw.ellipse((x - size, y - size, x + size, y + size), outline=colour, width=width)
    return drawn


def heat_over(picture: Image.Image, weights: Weights) -> Image.Image:
    """Return the picture in grey with the weights as colours over it, the largest yellow."""
    level = _stretched(weights, picture.size)[:, :, None]
    grey = np.asarray(as_rgb(picture).convert("L"), dtype=np.float64)[:, :, None]
    stops = np.linspace(0, 1, len(_RAMP))
    colour = np.stack([np.interp(level[:, :, 0], stops, _RAMP[:, c]) for c in range(3)], axis=2)
    share = 0.2 + 0.65 * np.sqrt(level)
    return _picture(grey * (1 - share) + colour * share)


def spotlight(picture: Image.Image, weights: Weights) -> Image.Image:
    """Return the picture, bright where the weights are large and nearly black elsewhere."""
    level = _stretched(weights, picture.size)[:, :, None]
    return _picture(np.asarray(as_rgb(picture), dtype=np.float64) * (0.08 + 0.92 * level**0.7))


def mask_over(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the picture with its background darkened and the rim of the mask drawn.

    Args:
        picture: any picture.
        mask: of the same proportions, white (above half) for the subject.
    """
    chosen = np.asarray(mask.convert("L").resize(picture.size, Image.Resampling.NEAREST)) > 127
    pixels = np.asarray(as_rgb(picture), dtype=np.float64)
    shown = np.where(chosen[:, :, None], pixels, 0.35 * pixels + 20)
    around = np.pad(chosen, 1, mode="edge")
    # A pixel of the subject with a neighbour that is none.
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    shown[chosen & ~inner] = _SUBJECT
    return _picture(shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPoint:
    """One row of `attention_figure`: a point of the target and its weights over the source.

    Attributes:
        point: x and y as parts of the target's size.
        weights: over the source.
        captions: words under target and source.
    """

    point: tuple[float, float]
    weights: Weights
    captions: tuple[str, str] = ("", "")


def attention_figure(source: Image.Image, target: Image.Image, seen: Sequence[SeenPoint]) -> Figure:
    """Return a row per point: the target with it, the source with its weights, and lit by them.

    Args:
        source, target: of one size.
        seen: at least one point.
    """
    source, target = enlarged(source), enlarged(target)
    rows = tuple(
        (
            Tile(image=point_on(target, one.point), caption=one.captions[0]),
            Tile(image=heat_over(source, one.weights), caption=one.captions[1]),
            Tile(image=spotlight(source, one.weights)),
        )
        for one in seen
    )
    heads = ("a point of the target", "where it looks in the source", "what it reads there")
    return Figure(rows=rows, headers=heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPicture:
    """A picture, its mask (white for the subject; None for none) and the words under it."""

    picture: Image.Image
    mask: Image.Image | None
    caption: str = ""


def masks_figure(pictures: Sequence[MaskedPicture]) -> Image.Image:
    """Return the masks over their pictures, side by side.

    Raises:
        ConfigError: none of them has a mask.
    """
    return masks_sheet(pictures).to_image()


def masks_sheet(pictures: Sequence[MaskedPicture]) -> Figure:
    """Return what `masks_figure` draws, to be saved as PNG and SVG."""
    shown = [one for one in pictures if one.mask is not None]
    if not shown:
        raise ConfigError("There is no mask to show: the run had none.")
    tiles = tuple(
        Tile(
            image=enlarged(one.picture)
            if one.mask is None
            else mask_over(enlarged(one.picture), one.mask),
            caption=one.caption,
        )
        for one in pictures
    )
    return Figure(rows=(tiles,))


def _stretched(weights: Weights, size: tuple[int, int]) -> np.ndarray:
    """Weights at every pixel of a picture of that (width, height), the largest 1."""
    most = float(weights.max())
    scaled = np.asarray(weights, dtype=np.float32) / (most or 1.0)
    smooth = Image.fromarray(scaled).resize(size, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(smooth, dtype=np.float64), 0, 1)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
