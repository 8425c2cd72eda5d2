from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from masactrl.errors import ConfigError, OutputError
from masactrl.pictures.images import (
    Tile,
    as_rgb,
    contact_sheet,
    image_to_tensor,
    read_recipe,
    save_png,
    tensor_to_image,
    tensor_to_images,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def levels() -> Image.Image:
    """Every level of every channel once: 256 x 3."""
    image = Image.new("RGB", (256, 3))
    for level in range(256):
        image.putpixel((level, 0), (level, 0, 255))
        image.putpixel((level, 1), (255, level, 0))
        image.putpixel((level, 2), (0, 255, level))
    return image


@pytest.mark.parametrize("signed", [True, False])
def test_every_level_survives_the_way_there_and_back(signed: bool) -> None:
    tensor = image_to_tensor(levels(), signed=signed)
    assert tensor.shape == (3, 3, 256)
    assert tensor.dtype is torch.float32
    assert (tensor.min(), tensor.max()) == (-1 if signed else 0, 1)
    assert tensor_to_image(tensor, signed=signed).tobytes() == levels().tobytes()


def test_values_are_rounded_and_clipped() -> None:
    tensor = torch.tensor([-9.0, 0.4 / 255, 0.6 / 255, 9.0]).expand(3, 1, 4)
    image = tensor_to_image(tensor, signed=False)
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 0, 1, 255)]


def test_what_is_received_is_not_changed() -> None:
    tensor = torch.full((3, 2, 2), 2.0)
    tensor_to_image(tensor)
    assert torch.equal(tensor, torch.full((3, 2, 2), 2.0))


def test_a_batch_becomes_its_pictures() -> None:
    batch = torch.stack([torch.zeros(3, 4, 6), torch.ones(3, 4, 6)])
    black, white = tensor_to_images(batch, signed=False)
    assert (black.size, black.getpixel((0, 0)), white.getpixel((5, 3))) == (
        (6, 4),
        (0, 0, 0),
        WHITE,
    )


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4, 3), (4, 4), (1, 3, 4, 4)])
def test_other_shapes_are_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"shape \(3, h, w\), not"):
        tensor_to_image(torch.zeros(shape))
    with pytest.raises(ConfigError, match=r"shape \(n, 3, h, w\), not \(3, 4, 4\)"):
        tensor_to_images(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_not_drawn_black(value: float) -> None:
    with pytest.raises(ConfigError, match="NaN or infinite"):
        tensor_to_image(torch.full((3, 2, 2), value))


def test_transparency_shows_white_and_rotation_is_carried_out() -> None:
    glass = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert as_rgb(glass).getpixel((0, 0)) == WHITE
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    assert as_rgb(palette).getpixel((1, 1)) == WHITE
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6  # rotated by a quarter
    assert as_rgb(turned).size == (2, 4)
    assert as_rgb(Image.new("L", (2, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_a_sheet_shows_every_picture_at_its_place() -> None:
    red, blue = Image.new("RGB", (200, 300), RED), Image.new("RGB", (200, 300), BLUE)
    sheet = contact_sheet(
        [[Tile(image=red), Tile(image=blue)], [Tile(image=None), Tile(image=red)]]
    )
    assert sheet.size == (3 * 8 + 2 * 200, 3 * 8 + 2 * 300)
    seen = [[sheet.getpixel((x, y)) for x in (108, 316)] for y in (158, 466)]
    assert seen == [[RED, BLUE], [WHITE, RED]]


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    sheet = contact_sheet([[Tile(image=Image.new("RGB", (64, 32), RED))]])
    assert sheet.size == (16 + 64 * 3, 16 + 32 * 3)


def test_words_take_room_and_stay_inside_their_column() -> None:
    image = Image.new("RGB", (192, 192), RED)
    plain = contact_sheet([[Tile(image=image)]])
    words = "a cat standing in the meadow, facing left, with a red collar and striped socks"
    spoken = contact_sheet([[Tile(image=image, caption=words)]], headers=["source"])
    assert spoken.width == plain.width
    assert spoken.height >= plain.height + 3 * 14
    margin = spoken.crop((200, 0, spoken.width, spoken.height))
    assert margin.getcolors() == [(margin.width * margin.height, WHITE)]


def test_a_sheet_of_nothing_is_refused() -> None:
    for rows in ([], [[]], [[Tile(image=None)]]):
        with pytest.raises(ConfigError, match="at least one picture"):
            contact_sheet(rows)


def test_the_recipe_travels_inside_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    recipe = {"prompt": 'a "cat" \u2603 \U0001f408', "seed": 7, "nested": {"sizes": [1, 2]}}
    save_png(path, levels(), recipe)
    assert read_recipe(path) == recipe
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == levels().tobytes()
    save_png(path, levels())
    assert read_recipe(path) is None
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    save_png(path, levels(), {"which": "old"})

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"a\.png cannot be written: No space left on device"):
        save_png(path, levels(), {"which": "new"})
    assert read_recipe(path) == {"which": "old"}
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        save_png(tmp_path / "a.png", levels())
    assert list(tmp_path.iterdir()) == []


def test_places_that_take_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in ("file/a.png", "missing/a.png", "folder.png"):
        with pytest.raises(OutputError, match="cannot be written"):
            save_png(tmp_path / path, levels())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder.png"]


def test_what_carries_no_readable_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        read_recipe(tmp_path / "a.png")
    path = tmp_path / "b.png"
    path.write_text("hello")
    with pytest.raises(ConfigError, match="cannot be read as a picture"):
        read_recipe(path)
    for text in ("{", "[1]", "[" * 100_000):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("masactrl", text)
        levels().save(path, pnginfo=chunks)
        with pytest.raises(ConfigError, match="is damaged"):
            read_recipe(path)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("masactrl", " " * 2**22, zip=True)  # some kilobytes, until it is unpacked
    levels().save(path, pnginfo=chunks)
    with pytest.raises(ConfigError, match="cannot be read as a picture"):
        read_recipe(path)
