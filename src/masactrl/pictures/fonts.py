"""A font that has the letters: Pillow's own for Latin, else one of this machine's.

Pillow's font knows Latin letters only; everything else would be drawn as rows of boxes.
"""

from __future__ import annotations

import sys
import unicodedata
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import ImageFont, features

from masactrl.errors import ControlWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Font", "font_for"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FOLDERS: Final = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
}
_ELSEWHERE: Final = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
)
# Plain faces of wide families first; the rest in the order of their names.
_LIKED: Final = (
    "dejavusans",
    "notosans-regular",
    "notosanscjk-regular",
    "notosanscjk",
    "arialuni",
    "arial unicode",
    "pingfang",
    "malgun",
    "msyh",
    "msgothic",
    "wqy",
    "unifont",
)
_MOST_FILES: Final = 600  # that are looked into; a machine of a designer has thousands
_NOTHING: Final = "\U0010ffff"  # a code that no font has a letter for


def font_for(words: Iterable[str], size: int) -> Font:
    """Return a font that has all letters of the words, or as many of them as one font has.

    Args:
        words: all that is to be written with it.
        size: of the letters in pixels.

    Warns:
        ControlWarning: letters are missing in every font, or the machine cannot write from right
            to left.
    """
    text = "".join(words)
    letters = frozenset(
        one
        for one in text
        if not one.isspace() and one.isprintable() and not "\ufe00" <= one <= "\ufe0f"
    )
    if not features.check("raqm") and any(
        unicodedata.bidirectional(one) in ("R", "AL") for one in letters
    ):
        warnings.warn(
            "Captions have letters that are written from right to left, and this installation of "
            "Pillow cannot do that (no raqm): they stand in the wrong order. Use Pillow's wheels.",
            ControlWarning,
            stacklevel=2,
        )
    font, missing = _font(letters, size)
    if missing:
        shown = "".join(sorted(missing))[:20]
        warnings.warn(
            f"No font of this machine has the letters {shown}, so captions show boxes in their "
            "place. Install a font that has them, such as Noto Sans (fonts-noto-cjk for Chinese, "
            "Japanese and Korean).",
            ControlWarning,
            stacklevel=2,
        )
    return font


@cache
def _font(letters: frozenset[str], size: int) -> tuple[Font, frozenset[str]]:
    """The font and what it lacks."""
    best: Font = ImageFont.load_default(size=size)
    lacking = _missing(best, letters)
    for path in _files() if lacking else ():
        try:
            found = ImageFont.truetype(str(path), size)
            left = _missing(found, letters)
        except (OSError, ValueError):
            continue  # no font after all
        if len(left) < len(lacking):
            best, lacking = found, left
        if not lacking:
            break
    return best, lacking


def _missing(font: Font, letters: frozenset[str]) -> frozenset[str]:
    """Letters that the font draws as it draws what does not exist."""
    box = bytes(font.getmask(_NOTHING))
    return frozenset(one for one in letters if bytes(font.getmask(one)) == box)


@cache
def _files() -> tuple[Path, ...]:
    folders = [Path(one).expanduser() for one in _FOLDERS.get(sys.platform, _ELSEWHERE)]
    files = [
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]

    def order(path: Path) -> tuple[int, str]:
        name = path.stem.lower()
        places = (n for n, liked in enumerate(_LIKED) if name.startswith(liked))
        plain = "bold" not in name and "italic" not in name and "oblique" not in name
        return (next(places, len(_LIKED)) + (0 if plain else len(_LIKED)), str(path))

    return tuple(sorted(files, key=order)[:_MOST_FILES])
