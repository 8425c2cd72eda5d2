"""Pictures at the door: any file becomes an upright RGB picture that fits the model's grid.

A model takes pictures whose sides are multiples of a few pixels, and is at its best near the size
it was trained on. The policy, so that a person's picture is never squashed:

    keep    the size is kept; the edge is repeated up to the next multiple and cut off again
    auto    as keep where the area is half to twice the model's own; else scaled, sides in
            proportion, to the model's own area, and results are scaled back

Results always have the size of the input.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from masactrl.errors import ConfigError, ControlWarning
from masactrl.pictures.images import DAMAGED, as_rgb
from masactrl.settings.mask_input import mask_of
from masactrl.settings.shared import Fit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PIXEL_LIMIT", "Framing", "frame", "read_mask", "read_picture"]

PIXEL_LIMIT = 64_000_000
"""Pixels above which a picture is refused unless asked otherwise; today's cameras stay below."""

_HARD_LIMIT = 178_000_000  # Pillow itself refuses to open more than about this
_LARGEST_SIDE = 4096  # pixels that a network is given at most
_SMALLEST_SIDE = 8  # pixels; below there is nothing to see


def read_picture(picture: Path | str | Image.Image, *, limit: int = PIXEL_LIMIT) -> Image.Image:
    """Return the picture upright, as 8 bit RGB in sRGB, what is transparent on white.

    Greyscale, palette, CMYK and 16 bit pictures are converted, embedded colour profiles applied;
    the first frame of several counts.

    Args:
        picture: a file, or a picture that is open already.
        limit: pixels above which it is refused before it is decoded, 1 to 178 million.

    Raises:
        ConfigError: it is missing, no picture, cut off, too small or too large.
    """
    return _read(picture, limit, lambda opened, name: as_rgb(_eight_bit(opened, name)))


def read_mask(mask: Path | str | Image.Image, *, limit: int = PIXEL_LIMIT) -> Image.Image:
    """Return a mask upright, as 8 bit grey, white is the subject; see `mask_input`.

    Args:
        mask: a file, or a picture that is open already.
        limit: as for `read_picture`.

    Raises:
        ConfigError: as from `read_picture`; `MaskError` where its values are no mask's.
    """

    def grey(opened: Image.Image, name: str) -> Image.Image:
        return Image.fromarray((mask_of(opened, name) * 255).round().astype(np.uint8))

    return _read(mask, limit, grey)


def _read(
    picture: Path | str | Image.Image,
    limit: int,
    convert: Callable[[Image.Image, str], Image.Image],
) -> Image.Image:
    """Open, check and convert; errors are sentences about the file."""
    if not 1 <= limit <= _HARD_LIMIT:
        raise ConfigError(f"limit={limit} pixels was given; accepted is 1 to {_HARD_LIMIT}.")
    if isinstance(picture, Image.Image):
        _check_size(picture, "The picture", limit)
        return convert(picture, "The picture")
    path = Path(picture)
    try:
        with warnings.catch_warnings():
            # Pillow's about large pictures, to which the limit here is the answer, and about what
            # is odd but can be read, such as damaged EXIF data.
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ControlWarning)  # ours
            with Image.open(path) as opened:
                _check_size(opened, str(path), limit)
                opened.load()
                return convert(opened, str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder; give one picture.") from error
    except PermissionError as error:
        raise ConfigError(f"{path} may not be read; give yourself the right to.") from error
    except Image.DecompressionBombError as error:
        raise ConfigError(
            f"{path} has more pixels than any that is accepted ({_HARD_LIMIT}); make it smaller."
        ) from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        what = "is empty" if empty else "is no picture of a kind that is known (PNG, JPEG, ...)"
        raise ConfigError(f"{path} {what}.") from error
    except DAMAGED as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise ConfigError(f"{path} is damaged or cut off: {reason}.") from error


def _check_size(picture: Image.Image, name: str, limit: int) -> None:
    width, height = picture.size
    if min(width, height) < _SMALLEST_SIDE:
        raise ConfigError(
            f"{name} has {width}x{height} pixels; accepted are sides of {_SMALLEST_SIDE} and more."
        )
    if width * height > limit:
        raise ConfigError(
            f"{name} has {width}x{height} pixels, more than the limit of {limit}; make it smaller "
            "or allow more."
        )


def _eight_bit(picture: Image.Image, name: str) -> Image.Image:
    """Return pictures of 16 bits a pixel with 8; Pillow's own conversion would clip them."""
    if picture.mode == "F":
        raise ConfigError(
            f"{name} holds floating point values whose white is unknown; save it with 8 or 16 bits."
        )
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ConfigError(f"{name} has more than 16 bits a pixel; save it with 8 or 16 bits.")
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    grey.info.update(picture.info)
    orientation = picture.getexif().get(274)
    if orientation:
        grey.getexif()[274] = orientation
    return grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a picture is laid on the model's grid, and how results come back; sizes are (w, h).

    Attributes:
        original: of the picture in pixels.
        scaled: after scaling; the same sides in proportion, to the pixel.
        padded: what the model sees; scaled, its right and lower edges repeated.
    """

    original: tuple[int, int]
    scaled: tuple[int, int]
    padded: tuple[int, int]

    def enter(self, picture: Image.Image) -> Image.Image:
        """Return the picture as the model sees it.

        Raises:
            ConfigError: it is not of the original size.
        """
        if picture.size != self.original:
            raise ConfigError(
                f"A picture of {picture.size[0]}x{picture.size[1]} pixels was given where all "
                f"have {self.original[0]}x{self.original[1]}."
            )
        if self.scaled != self.original:
            picture = picture.resize(self.scaled, Image.Resampling.LANCZOS)
        return Image.fromarray(_padded(np.asarray(picture), self.scaled, self.padded))

    def enter_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask (height, width) of any size, 0 to 1, as the model sees it: 0 or 1."""
        drawn = Image.fromarray((mask >= 0.5).astype(np.uint8) * 255)
        resized = drawn.resize(self.scaled, Image.Resampling.NEAREST)
        return _padded(np.asarray(resized), self.scaled, self.padded) > 127

    def leave(self, picture: Image.Image, *, smooth: bool = True) -> Image.Image:
        """Return a result of the padded size with the original size; not `smooth` for masks."""
        cut = picture.crop((0, 0, *self.scaled))
        if self.scaled == self.original:
            return cut
        way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        return cut.resize(self.original, way)


def frame(
    size: tuple[int, int], *, native: tuple[int, int], multiple: int = 8, fit: Fit = "auto"
) -> Framing:
    """Return how pictures of that size are laid on a model's grid; sizes are (width, height).

    Args:
        size: of the picture in pixels.
        native: the model's own size.
        multiple: what both sides have to be divisible by.
        fit: see `Fit`.

    Raises:
        ConfigError: the picture would reach the model too large, or `fit` is unknown.
    """
    if fit not in get_args(Fit):
        raise ConfigError(f"fit={fit!r} was given; accepted are {', '.join(get_args(Fit))}.")
    width, height = size
    ratio = (native[0] * native[1]) / (width * height)
    if fit == "keep" or 0.5 <= ratio <= 2:
        scaled = size
    else:
        factor = ratio**0.5
        scaled = (max(1, round(width * factor)), max(1, round(height * factor)))
    padded = tuple(-(-side // multiple) * multiple for side in scaled)
    if max(padded) > _LARGEST_SIDE:
        raise ConfigError(
            f"The model would be given {padded[0]}x{padded[1]} pixels; accepted are sides up to "
            f"{_LARGEST_SIDE}. Use fit 'auto' or a picture that is smaller or less oblong."
        )
    return Framing(original=size, scaled=scaled, padded=(padded[0], padded[1]))


def _padded(pixels: np.ndarray, scaled: tuple[int, int], padded: tuple[int, int]) -> np.ndarray:
    right, below = padded[0] - scaled[0], padded[1] - scaled[1]
    widths = [(0, below), (0, right)] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, widths, mode="edge")
