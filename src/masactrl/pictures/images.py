"""Pixels: the one place where pictures become tensors, tensors pictures, and pictures files.

Everywhere else a picture is either a `PIL.Image.Image` (8 bit RGB) or a float tensor; which range a
tensor has is said by `signed`: True for [-1, 1], what a VAE reads, False for [0, 1].
"""

from __future__ import annotations

import io
import json
import struct
import unicodedata
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from masactrl.errors import ConfigError, ControlWarning
from masactrl.pictures.colour_profiles import in_srgb
from masactrl.pictures.files import written_whole
from masactrl.pictures.fonts import Font, font_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise over damaged files, as each of them pleases."""

RECIPE_KEY = "masactrl"
"""Name of the PNG text chunk that holds the recipe as JSON."""

_PAPER = (255, 255, 255)
_INK = (32, 32, 32)
_MARGIN = 8  # pixels around and between the tiles of a sheet
FONT_SIZE = 14  # pixels, of the words on a sheet
_SMALLEST_TILE = 192  # pixels: a caption needs about this width to be read


def as_rgb(image: Image.Image) -> Image.Image:
    """Return the picture upright and as 8 bit RGB in sRGB; what is transparent shows white.

    Args:
        image: any picture; a rotation noted in its EXIF data is carried out, and an embedded
            colour profile applied, see `masactrl.pictures.colour_profiles`.
    """
    upright = in_srgb(ImageOps.exif_transpose(image))
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (*_PAPER, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")


def image_to_tensor(image: Image.Image, *, signed: bool = True) -> Tensor:
    """Return the picture as a float32 tensor `3 h w` on the CPU.

    Args:
        image: any picture, see `as_rgb`.
        signed: True for the range [-1, 1], False for [0, 1].
    """
    import torch

    pixels = torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)  # 3 h w, 0..255
    unit = pixels.to(torch.float32) / 255
    return unit * 2 - 1 if signed else unit


def tensor_to_image(tensor: Tensor, *, signed: bool = True) -> Image.Image:
    """Return the tensor as an RGB picture, rounded to the nearest of 256 levels.

    Args:
        tensor: `3 h w`, any float type, any device; values beyond the range are clipped.
        signed: True when its range is [-1, 1], False for [0, 1].

    Raises:
        ConfigError: the tensor has another shape, or holds NaN or infinite values.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ConfigError(f"A picture is a tensor of shape (3, h, w), not {tuple(tensor.shape)}.")
    values = tensor.detach().float().cpu()
    if not bool(values.isfinite().all()):
        # Clipped, such a picture would silently come out black.
        raise ConfigError("The tensor holds NaN or infinite values and cannot be a picture.")
    unit = (values + 1) / 2 if signed else values
    pixels = unit.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)  # h w 3
    return Image.fromarray(pixels.contiguous().numpy(), mode=None)


def tensor_to_images(batch: Tensor, *, signed: bool = True) -> tuple[Image.Image, ...]:
    """Return every picture of a batch `n 3 h w`; otherwise as `tensor_to_image`."""
    if batch.ndim != 4:
        raise ConfigError(f"A batch has the shape (n, 3, h, w), not {tuple(batch.shape)}.")
    return tuple(tensor_to_image(one, signed=signed) for one in batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One place of a contact sheet: a picture and the words under it.

    Attributes:
        image: the picture; None leaves the place empty.
        caption: words under the picture, wrapped to its width.
    """

    image: Image.Image | None
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Where everything of a contact sheet is, in pixels from its upper left corner.

    Attributes:
        size: width and height.
        pictures: each with left, top, width and height.
        words: each line with left and top.
    """

    size: tuple[int, int]
    pictures: tuple[tuple[Image.Image, tuple[int, int, int, int]], ...]
    words: tuple[tuple[str, int, int], ...]


def contact_sheet(rows: Sequence[Sequence[Tile]], *, headers: Sequence[str] = ()) -> Image.Image:
    """Return one picture that shows all tiles in rows, each with its caption.

    All tiles get the size of the largest picture. Small pictures are enlarged by a whole factor
    so that captions stay legible; nothing is ever made smaller.

    Args:
        rows: one or more rows of one or more tiles; rows may differ in length.
        headers: words above the columns, from the left; may be shorter than the rows.

    Raises:
        ConfigError: there is no picture at all.
    """
    laid = laid_out(rows, headers=headers)
    sheet = Image.new("RGB", laid.size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = font_for((words for words, _, _ in laid.words), FONT_SIZE)
    for picture, (left, top, width, height) in laid.pictures:
        sized = as_rgb(picture).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(sized, (left, top))
    for words, left, top in laid.words:
        draw.text((left, top), words, fill=_INK, font=font)
    return sheet


def laid_out(rows: Sequence[Sequence[Tile]], *, headers: Sequence[str] = ()) -> Sheet:
    """Return the places of everything on a contact sheet; see there."""
    pictures = [tile.image for row in rows for tile in row if tile.image is not None]
    if not pictures:
        raise ConfigError("A contact sheet needs at least one picture.")
    largest = max(max(picture.size) for picture in pictures)
    factor = max(1, -(-_SMALLEST_TILE // largest))
    width = max(picture.width for picture in pictures) * factor
    height = max(picture.height for picture in pictures) * factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ControlWarning)  # who draws the words says what is missing
        font = font_for([*headers, *(tile.caption for row in rows for tile in row)], FONT_SIZE)
    line = FONT_SIZE + 4

    header_lines = [_wrap(words, font, width) for words in headers]
    captions = [[_wrap(tile.caption, font, width) for tile in row] for row in rows]
    header_height = max((len(lines) for lines in header_lines), default=0) * line
    caption_heights = [max((len(lines) for lines in row), default=0) * line for row in captions]
    columns = max(len(headers), *(len(row) for row in rows))
    sheet_height = _MARGIN + header_height + sum(height + _MARGIN + c for c in caption_heights)
    lefts = [_MARGIN + column * (width + _MARGIN) for column in range(columns)]
    shown: list[tuple[Image.Image, tuple[int, int, int, int]]] = []
    said: list[tuple[str, int, int]] = []

    def write(lines: Sequence[str], left: int, top: int) -> None:
        said.extend((words, left, top + index * line) for index, words in enumerate(lines))

    for left, lines in zip(lefts, header_lines, strict=False):
        write(lines, left, _MARGIN // 2)
    top = _MARGIN + header_height
    for row, row_captions, caption_height in zip(rows, captions, caption_heights, strict=True):
        for left, tile, lines in zip(lefts, row, row_captions, strict=False):
            if tile.image is not None:
                size = tile.image.width * factor, tile.image.height * factor
                shown.append((tile.image, (left, top, *size)))
            write(lines, left, top + height + 2)
        top += height + caption_height + _MARGIN
    size = _MARGIN + columns * (width + _MARGIN), sheet_height
    return Sheet(size=size, pictures=tuple(shown), words=tuple(said))


def _wrap(words: str, font: Font, width: int) -> tuple[str, ...]:
    """Break words into lines of at most `width` pixels; one word longer than that stays whole.

    Scripts that write no spaces (Chinese, Japanese) may break after every letter.
    """
    lines: list[str] = []
    for word in words.split():
        wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in word)
        for number, part in enumerate(word if wide else [word]):
            joined = f"{lines[-1]}{'' if number else ' '}{part}" if lines else part
            if lines and font.getlength(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(part)
    return tuple(lines)


def png_bytes(
    image: Image.Image,
    recipe: Mapping[str, Any] | None = None,
    *,
    text: Mapping[str, str] | None = None,
) -> bytes:
    """Return the picture as a PNG with its recipe inside.

    Args:
        image: the picture.
        recipe: how the picture was made, values that JSON knows; None writes no recipe.
        text: further text chunks, name -> words in any script.
    """
    chunks = PngImagePlugin.PngInfo()
    if recipe is not None:
        # Escaped to ASCII, which every reader of PNG text chunks agrees on.
        chunks.add_text(RECIPE_KEY, json.dumps(recipe, ensure_ascii=True))
    for name, words in (text or {}).items():
        chunks.add_itxt(name, words)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def save_png(
    path: Path,
    image: Image.Image,
    recipe: Mapping[str, Any] | None = None,
    *,
    text: Mapping[str, str] | None = None,
) -> None:
    """Write what `png_bytes` returns, whole or not at all.

    The file is written under a temporary name in the same folder and then renamed, so that a
    reader never meets half a picture. An existing file is replaced.

    Args:
        path: where to; its folder must exist.
        image: see `png_bytes`.
        recipe: see there.
        text: see there.

    Raises:
        OutputError: the file cannot be written there.
    """
    with written_whole(path) as beside:
        beside.write_bytes(png_bytes(image, recipe, text=text))


def read_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe that `save_png` put into the picture; None when it carries none.

    Raises:
        ConfigError: the file is missing or no picture, or its recipe is damaged.
    """
    try:
        with Image.open(path) as image:
            image.load()  # text chunks may follow the pixels
            text = image.info.get(RECIPE_KEY)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except DAMAGED as error:  # also chunks of many megabytes
        raise ConfigError(f"{path} cannot be read as a picture: {error}.") from error
    if text is None:
        return None
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The recipe inside {path} is damaged: {error}.") from error
    if not isinstance(recipe, dict):
        raise ConfigError(f"The recipe inside {path} is damaged: it is no JSON object.")
    return recipe
