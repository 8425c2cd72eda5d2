"""What is read becomes sRGB, and what is written says nothing else."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from masactrl import ControlWarning
from masactrl.pictures.images import as_rgb, image_to_tensor
from masactrl.pictures.input import read_picture


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(space: bytes = b"RGB ", name: bytes = b"wide") -> bytes:
    """A small matrix or grey profile of gamma 2.2 with wide primaries (Adobe RGB's)."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    told = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(79)
    told += bytes(-len(told) % 4)

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(map(fixed, values))

    tags = {b"desc": told, b"cprt": b"text" + bytes(4) + b"none" + bytes(4)}
    tags[b"wtpt"] = xyz(0.9642, 1.0, 0.8249)
    if space == b"RGB ":
        tags |= {
            b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
            b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
            b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
            b"rTRC": curve,
            b"gTRC": curve,
            b"bTRC": curve,
        }
    else:
        tags[b"kTRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)  # gamma 1
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return head + bytes(128 - len(head)) + table + body


GREEN = (60, 200, 60)


def pillows(picture: Image.Image, icc: bytes) -> np.ndarray:
    made = ImageCms.profileToProfile(
        picture, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )  # fmt: skip
    return np.asarray(made, int)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_a_photo_with_a_profile_is_read_as_srgb(tmp_path: Path, ending: str) -> None:
    icc = profile()
    path = tmp_path / f"photo.{ending}"
    plain = Image.new("RGB", (16, 16), GREEN)
    plain.save(path, icc_profile=icc, **({"quality": 100} if ending in ("jpg", "webp") else {}))
    read = read_picture(path)
    assert "icc_profile" not in read.info
    assert np.abs(np.asarray(read, int) - pillows(plain, icc)).max() <= 6
    assert np.abs(np.asarray(read, int) - GREEN).max() > 30


def test_transparency_stays_beside_colours() -> None:
    icc = profile()
    layer = Image.new("RGBA", (16, 8), (*GREEN, 255))
    layer.paste((0, 0, 0, 0), (0, 0, 8, 8))
    layer.info["icc_profile"] = icc
    pixels = np.asarray(as_rgb(layer), int)
    assert (pixels[:, :8] == 255).all()
    assert np.abs(pixels[:, 8:] - pillows(Image.new("RGB", (1, 1), GREEN), icc)).max() <= 1


def test_grey_and_palette_profiles() -> None:
    grey = Image.new("L", (8, 8), 60)
    grey.info["icc_profile"] = profile(b"GRAY")  # linear light
    assert np.asarray(as_rgb(grey))[0, 0, 0] > 120
    icc = profile()
    indexed = Image.new("RGB", (8, 8), GREEN).quantize(4)
    indexed.info["icc_profile"] = icc
    wanted = pillows(Image.new("RGB", (1, 1), GREEN), icc)
    assert np.abs(np.asarray(as_rgb(indexed), int) - wanted).max() <= 1


@pytest.mark.parametrize("icc", [None, profile(name=b"sRGB IEC61966-2.1")])
def test_srgb_keeps_every_level(icc: bytes | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if icc is not None:
        picture.info["icc_profile"] = icc
    assert (np.asarray(as_rgb(picture)) == noise).all()


@pytest.mark.parametrize("icc", [b"no profile", profile()[:200], profile(b"GRAY")])
def test_a_profile_that_cannot_be_used_is_said(icc: bytes) -> None:
    picture = Image.new("RGB", (8, 8), GREEN)
    picture.info["icc_profile"] = icc
    if icc == profile(b"GRAY"):
        picture = picture.convert("CMYK")
        picture.info["icc_profile"] = icc
    with pytest.warns(ControlWarning, match="colour profile in the picture cannot be used"):
        as_rgb(picture)


@pytest.mark.parametrize(("gamma", "changes"), [(0.45455, False), (1.0, True)])
def test_the_gamma_of_a_png_counts(tmp_path: Path, gamma: float, changes: bool) -> None:
    chunks: Any = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), (60, 60, 60)).save(path, pnginfo=chunks)
    value = float(image_to_tensor(read_picture(path), signed=False)[0, 0, 0]) * 255
    assert (abs(value - 60) > 30) == changes
