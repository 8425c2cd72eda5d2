"""Figures as PNG and SVG: the same pictures and words in both, whole or not at all."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from masactrl.errors import OutputError
from masactrl.pictures.figures import Figure
from masactrl.pictures.images import Tile, contact_sheet
from masactrl.pictures.overlays import MaskedPicture, SeenPoint, attention_figure, masks_sheet
from masactrl.studies.compare import Comparison, ComparisonColumn

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
RED = Image.new("RGB", (64, 48), (255, 0, 0))
BLUE = Image.new("RGB", (64, 48), (0, 0, 255))


def parsed(text: str) -> tuple[list[Image.Image], list[str]]:
    """Pictures and words of an SVG, in order."""
    root = ElementTree.fromstring(text)
    pictures = []
    for one in root.iter(f"{SVG}image"):
        kind, _, content = one.attrib["href"].partition(",")
        assert kind == "data:image/png;base64"
        pictures.append(Image.open(io.BytesIO(base64.b64decode(content))))
    return pictures, [str(one.text) for one in root.iter(f"{SVG}text")]


def test_both_files_show_the_same(tmp_path: Path) -> None:
    figure = Figure(
        rows=((Tile(image=RED, caption='a "cat" & <dog>'), Tile(image=None)), (Tile(image=BLUE),)),
        headers=("first",),
    )
    png, svg = figure.save(tmp_path / "figure.one")
    assert [path.name for path in (png, svg)] == ["figure.one.png", "figure.one.svg"]
    assert {path.name for path in tmp_path.iterdir()} == {png.name, svg.name}
    with Image.open(png) as drawn:
        assert drawn.tobytes() == contact_sheet(figure.rows, headers=("first",)).tobytes()
        root = ElementTree.parse(svg).getroot()
        assert (int(root.attrib["width"]), int(root.attrib["height"])) == drawn.size
    pictures, words = parsed(svg.read_text())
    assert [one.tobytes() for one in pictures] == [RED.tobytes(), BLUE.tobytes()]
    assert " ".join(words) == 'first a "cat" & <dog>'
    assert figure.to_svg() == svg.read_text()
    with pytest.raises(OutputError, match="cannot be written"):
        figure.save(tmp_path / "missing" / "figure")


def test_every_figure_is_one() -> None:
    columns = (
        ComparisonColumn(method="source", title="source", image=RED),
        ComparisonColumn(method="masactrl", title="MasaCtrl", image=BLUE, seconds=1.0),
    )
    comparison = Comparison(source_prompt="a cat", target_prompt="a dog", columns=columns)
    pictures, words = parsed(comparison.to_figure().to_svg())
    assert len(pictures) == 2
    assert words == ["source", "MasaCtrl", "a cat", "a dog"]
    seen = SeenPoint(point=(0.5, 0.5), weights=np.ones((4, 4)), captions=("here", "there"))
    pictures, words = parsed(attention_figure(RED, BLUE, [seen]).to_svg())
    assert len(pictures) == 3
    assert words[-2:] == ["here", "there"]
    mask = Image.new("L", (64, 48), 255)
    pictures, words = parsed(masks_sheet([MaskedPicture(picture=RED, mask=mask)]).to_svg())
    assert len(pictures) == 1
