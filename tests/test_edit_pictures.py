"""Whatever a person calls a picture becomes one, or is refused in one sentence."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masactrl.errors import ConfigError
from masactrl.pictures.input import frame, read_picture

RAMP = np.linspace(0, 255, 40, dtype=np.uint8)[None].repeat(30, 0)  # 30 rows, 40 columns


def colour() -> Image.Image:
    return Image.fromarray(np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], axis=-1))


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_usual_files(tmp_path: Path, kind: str) -> None:
    read = read_picture(saved(colour(), tmp_path / f"one.{kind}"))
    assert (read.mode, read.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(read, float) - np.asarray(colour(), float)).mean() < 12


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "YCbCr", "1", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    read = read_picture(colour().convert("RGB").convert(mode))
    assert read.mode == "RGB"
    if mode in ("RGBA", "CMYK", "YCbCr"):
        assert np.abs(np.asarray(read, float) - np.asarray(colour(), float)).max() < 6


def test_16_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    for path in (tmp_path / "deep.png", tmp_path / "deep.tiff"):
        read = np.asarray(read_picture(saved(deep, path)))
        assert (read == RAMP[..., None]).all()
    assert (
        np.asarray(read_picture(Image.fromarray(RAMP.astype(np.int32) * 257)))[..., 0] == RAMP
    ).all()


def test_what_is_transparent_shows_white() -> None:
    layer = colour().convert("RGBA")
    layer.putalpha(0)
    assert np.asarray(read_picture(layer)).min() == 255


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_rotation_in_exif_is_carried_out(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    upright = {3: 180, 6: 270, 8: 90}[orientation]
    wanted = np.asarray(colour().rotate(upright, expand=True), float)
    path = saved(colour(), tmp_path / "turned.png", exif=exif)
    assert np.abs(np.asarray(read_picture(path), float) - wanted).max() == 0
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    path = saved(deep, tmp_path / "deep.png", exif=exif)
    assert read_picture(path).size == wanted.shape[1::-1]


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"words", "is no picture of a kind that is known"),
        (b"\x89PNG\r\n\x1a\n", "is no picture|damaged"),
        (png((40, 30))[:-30], "is damaged or cut off"),
        (png((20000, 9000)), "more than the limit of 64000000|more pixels"),
        (png((20000, 20000)), "more pixels than any that is accepted"),
        (png((7, 30)), "sides of 8 and more"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as found:
        read_picture(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "gif", "avif", "spider"])
def test_whatever_is_damaged_is_one_sentence(tmp_path: Path, kind: str) -> None:
    """Bytes changed and cut by chance; a few kinds of decoders raise more than `OSError`."""
    buffer, chance = io.BytesIO(), random.Random(7)
    try:
        (colour() if kind != "spider" else colour().convert("F")).save(buffer, format=kind)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {kind}")
    whole, path = buffer.getvalue(), tmp_path / f"bad.{kind}"
    refused: list[str] = []
    for _ in range(40):
        content = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
        for _ in range(4):
            content[chance.randrange(min(len(content), 300))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            read_picture(path)
        except ConfigError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in sentence for sentence in refused)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ConfigError, match="may not be read"):
        read_picture(tmp_path / "photo.png")


def test_16_bits_may_be_transparent(tmp_path: Path) -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    read = read_picture(saved(deep, tmp_path / "deep.png", transparency=0))
    assert (read.mode, read.size) == ("RGB", (40, 30))


def test_other_ways_to_give_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(ConfigError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(ConfigError, match="sides of 8"):
        read_picture(Image.new("RGB", (0, 10)))
    with pytest.raises(ConfigError, match="white is unknown"):
        read_picture(Image.fromarray(RAMP.astype(np.float32)))
    with pytest.raises(ConfigError, match="more than 16 bits"):
        read_picture(Image.fromarray(RAMP.astype(np.int32) * 1000000))


def test_the_limit_can_be_chosen() -> None:
    assert read_picture(colour(), limit=1200).size == (40, 30)
    with pytest.raises(ConfigError, match="40x30 pixels, more than the limit of 1199"):
        read_picture(colour(), limit=1199)
    with pytest.raises(ConfigError, match="accepted is 1 to"):
        read_picture(colour(), limit=0)


@pytest.mark.parametrize(
    ("size", "fit", "scaled", "padded"),
    [
        ((512, 512), "auto", (512, 512), (512, 512)),
        ((500, 333), "auto", (500, 333), (504, 336)),
        ((768, 512), "auto", (768, 512), (768, 512)),
        ((4000, 3000), "auto", (591, 443), (592, 448)),
        ((64, 64), "auto", (512, 512), (512, 512)),
        ((1000, 600), "keep", (1000, 600), (1000, 600)),
        ((1001, 601), "keep", (1001, 601), (1008, 608)),
    ],
)
def test_pictures_are_never_squashed(
    size: tuple[int, int], fit: str, scaled: tuple[int, int], padded: tuple[int, int]
) -> None:
    framing = frame(size, native=(512, 512), fit=fit)  # type: ignore[arg-type]
    assert (framing.scaled, framing.padded) == (scaled, padded)
    assert scaled[0] / scaled[1] == pytest.approx(size[0] / size[1], rel=0.01)


def test_what_enters_leaves_again() -> None:
    framing = frame((40, 30), native=(48, 32))
    entered = framing.enter(colour())
    assert entered.size == (40, 32)
    assert (np.asarray(entered)[30:] == np.asarray(colour())[29:]).all()  # the edge, repeated
    assert framing.leave(entered).tobytes() == colour().tobytes()
    scaled = frame((40, 30), native=(80, 60))
    assert scaled.leave(scaled.enter(colour())).size == (40, 30)
    mask = framing.enter_mask(RAMP / 255)
    assert (mask.shape, mask.dtype) == ((32, 40), np.bool_)
    with pytest.raises(ConfigError, match="all have 40x30"):
        framing.enter(Image.new("RGB", (30, 40)))


def test_too_oblong_or_large_is_refused() -> None:
    with pytest.raises(ConfigError, match="sides up to 4096"):
        frame((8000, 8000), native=(512, 512), fit="keep")
    with pytest.raises(ConfigError, match="sides up to 4096"):
        frame((40000, 100), native=(512, 512))
