"""Masks as people paint them: on nothing, in palettes, in 16 bits, as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from masactrl.attention import GivenMasks
from masactrl.errors import MaskError
from masactrl.pictures.input import frame, read_mask
from masactrl.runs.edit_request import EditMasks
from masactrl.runs.mask_words import MaskWords
from masactrl.runs.masks import plan_masks
from masactrl.settings.mask_input import mask_of

BOX = (4, 4, 11, 11)  # 8 x 8 of 16 x 16: a quarter


def on(background: Any, paint: Any, mode: str) -> Image.Image:
    picture = Image.new(mode, (16, 16), background)
    ImageDraw.Draw(picture).rectangle(BOX, fill=paint)
    return picture


def palette() -> Image.Image:
    """A segmentation's: index 1 is a dark red."""
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([0, 0, 0, 128, 0, 0])
    ImageDraw.Draw(picture).rectangle(BOX, fill=1)
    return picture


def cut_out() -> Image.Image:
    """A photo without its background."""
    noise = np.random.default_rng(0).integers(60, 200, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert("RGBA")
    picture.putalpha(on(0, 255, "L"))
    return picture


def sixteen() -> Image.Image:
    return Image.fromarray((np.asarray(on(0, 255, "L")).astype(np.uint16) * 257).astype(np.uint16))


GREY = np.asarray(on(0, 255, "L"))
PAINTED: dict[str, Any] = {
    "white on black": on(0, 255, "L"),
    "white on nothing": on((255, 255, 255, 0), (255, 255, 255, 255), "RGBA"),
    "white on transparent black": on((0, 0, 0, 0), (255, 255, 255, 255), "RGBA"),
    "black on nothing": on((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"),
    "grey and alpha": on((255, 0), (255, 255), "LA"),
    "white on opaque black": on((0, 0, 0, 255), (255, 255, 255, 255), "RGBA"),
    "palette": palette(),
    "cut out": cut_out(),
    "1 bit": on(0, 1, "1"),
    "16 bits": sixteen(),
    "float": Image.fromarray(GREY.astype(np.float32) / 255),
    "levels 0 and 1": on(0, 1, "L"),
    "bytes": GREY,
    "bytes with channels": np.repeat(GREY[:, :, None], 3, 2),
    "bytes with one channel": GREY[:, :, None],
    "bytes with alpha": np.asarray(on((255, 255, 255, 0), (255, 255, 255, 255), "RGBA")),
    "booleans": GREY > 0,
    "whole 16 bits": GREY.astype(np.uint16) * 257,
    "64-bit zeros and ones": (GREY > 0).astype(np.int64),
    "mirrored": GREY[::-1, ::-1],
}


@pytest.mark.parametrize("name", PAINTED)
def test_the_painted_quarter_is_the_subject(name: str) -> None:
    wanted = np.asarray(on(0, 255, "L")) > 0
    if name == "mirrored":
        wanted = wanted[::-1, ::-1]
    assert ((mask_of(PAINTED[name]) >= 0.5) == wanted).all()
    (kept,) = GivenMasks(images=(PAINTED[name],)).images
    assert isinstance(kept, torch.Tensor)
    assert kept.dtype is torch.float32
    assert ((kept.numpy() >= 0.5) == wanted).all()


@pytest.mark.parametrize(
    ("name", "ending"),
    [(n, "png") for n in ("white on nothing", "black on nothing", "palette", "16 bits", "1 bit")]
    + [("float", "tif"), ("white on black", "bmp")],
)
def test_files_are_read_alike(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / f"mask.{ending}"
    PAINTED[name].save(path)
    assert (np.asarray(read_mask(path)) > 127).mean() == 0.25
    masks = MaskWords(mask_file=str(path)).masks(limit=10_000)
    assert masks is not None
    assert (np.asarray(masks.source) > 127).mean() == 0.25


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (np.full((4, 4), 3.0), "0 to 1"),
        (np.full((4, 4), -1), "0 to 1"),
        (np.full((4, 4), 70_000), "0 to 1"),
        (np.zeros((2, 4, 4)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.full((4, 4), "x"), "accepted are numbers"),
    ],
)
def test_what_is_no_mask_is_said(wrong: np.ndarray, says: str) -> None:
    with pytest.raises(MaskError, match=says):
        mask_of(wrong)


@pytest.mark.parametrize(("level", "share"), [(0, "nothing"), (255, "everything")])
def test_a_mask_that_separates_nothing_is_an_error_unless_allowed(level: int, share: str) -> None:
    framing = frame((16, 16), native=(16, 16))
    drawn = Image.new("L", (16, 16), level)
    with pytest.raises(MaskError, match=f"marks {share}"):
        plan_masks(EditMasks(source=drawn), framing, "", ("a",))
    plan_masks(EditMasks(source=drawn, on_empty="warn"), framing, "", ("a",))
    with pytest.raises(MaskError, match="accepted"):
        GivenMasks(images=(drawn,), on_empty="maybe")  # type: ignore[arg-type]
