"""Figures of pictures and words, as PNG and as SVG with words that can be edited.

comparison.to_figure().save(Path("out/comparison"))     # comparison.png, comparison.svg
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from masactrl.pictures.files import write_text
from masactrl.pictures.images import FONT_SIZE, Tile, as_rgb, contact_sheet, laid_out, save_png

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

__all__ = ["Figure", "sheet_svg"]

_INK = "#202020"
_FONT = "Arial, Helvetica, sans-serif"  # not wider than the font of the PNG


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Pictures in rows, each with words under it, and words above the columns.

    Attributes:
        rows: one or more of one or more tiles.
        headers: from the left; may be fewer than columns.
    """

    rows: tuple[tuple[Tile, ...], ...]
    headers: tuple[str, ...] = ()

    def to_image(self) -> Image.Image:
        """Return it drawn."""
        return contact_sheet(self.rows, headers=self.headers)

    def to_svg(self) -> str:
        """Return it as an SVG document that holds its pictures."""
        return sheet_svg(self.rows, headers=self.headers)

    def save(self, path: Path) -> tuple[Path, Path]:
        """Write it as PNG and as SVG; files that are there are replaced.

        Args:
            path: without ending; its folder must exist.

        Returns:
            both paths.

        Raises:
            OutputError: they cannot be written.
        """
        png, svg = (path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg"))
        save_png(png, self.to_image())
        return png, write_text(svg, self.to_svg())


def sheet_svg(rows: Sequence[Sequence[Tile]], *, headers: Sequence[str] = ()) -> str:
    """Return the sheet that `masactrl.pictures.images.contact_sheet` draws as one SVG document.

    Args:
        rows: the same.
        headers: the same.

    Raises:
        ConfigError: there is no picture at all.
    """
    laid = laid_out(rows, headers=headers)
    width, height = laid.size
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    parts += [
        f'<image x="{left}" y="{top}" width="{wide}" height="{high}" href="{_inside(picture)}"/>'
        for picture, (left, top, wide, high) in laid.pictures
    ]
    parts.append(f'<g font-family="{_FONT}" font-size="{FONT_SIZE}" fill="{_INK}">')
    # The second coordinate of words is their base line, not their upper edge.
    parts += [
        f'<text x="{left}" y="{top + FONT_SIZE}">{escape(words)}</text>'
        for words, left, top in laid.words
    ]
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _inside(picture: Image.Image) -> str:
    """The picture as a PNG within an address."""
    buffer = io.BytesIO()
    as_rgb(picture).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
