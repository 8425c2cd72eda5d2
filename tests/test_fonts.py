"""Captions in any script: the letters, or a sentence that they are missing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont, features

from masactrl import ControlWarning
from masactrl.pictures import fonts
from masactrl.pictures.images import Tile, contact_sheet


@pytest.fixture(autouse=True)
def _fresh() -> None:
    fonts._font.cache_clear()
    fonts._files.cache_clear()


def sheet(words: str) -> tuple[np.ndarray, list[str]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = contact_sheet([[Tile(image=Image.new("RGB", (192, 8)), caption=words)]])
    return np.asarray(made), [str(one.message) for one in said]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("кот", "пёс"),
        ("고양이", "강아지"),
        ("猫", "犬"),
        ("γάτα", "σκύλος"),
        ("חתול", "כלב"),
        ("قطة", "كلب"),
        ("แมว", "สุนัข"),
        ("बिल्ली", "कुत्ता"),
        ("🐈", "🐕"),
    ],
)
def test_two_words_are_two_pictures_or_it_is_said(one: str, other: str) -> None:
    (first, said), (second, _) = sheet(one), sheet(other)
    alike = first.shape == second.shape and np.array_equal(first, second)
    assert said or not alike
    assert all("No font of this machine has" in sentence for sentence in said)


def test_latin_keeps_pillows_own_font_and_says_nothing() -> None:
    _, said = sheet("a cat - running, 50 % (S=4)")
    assert said == []
    own = ImageFont.load_default(size=14)
    assert fonts.font_for(["a cat"], 14).getlength("a cat") == own.getlength("a cat")


def test_without_any_font_the_letters_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_files", tuple)
    with pytest.warns(ControlWarning, match="No font of this machine has the letters 犬"):
        fonts.font_for(["a 犬"], 14)


def test_what_is_no_font_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_files", lambda: (broken,))
    with pytest.warns(ControlWarning, match="No font"):
        fonts.font_for(["犬"], 14)


def test_right_to_left_needs_raqm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.warns(ControlWarning) as said:
        fonts.font_for(["חתול"], 14)
    assert any("from right to left" in str(one.message) for one in said)


def test_scripts_without_spaces_are_broken_into_lines() -> None:
    made, _ = sheet("猫" * 60)
    short, _ = sheet("猫")
    assert made.shape[1] == short.shape[1]
    assert made.shape[0] > short.shape[0]
