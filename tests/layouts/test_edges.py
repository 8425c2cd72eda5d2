"""Edges of pictures for ControlNet and T2I-Adapter."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from masactrl.errors import ConfigError, MissingExtra
from masactrl.pictures.edges import canny


def a_square() -> np.ndarray:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = (250, 120, 30)
    return picture


def test_the_edges_of_a_square_are_its_outline() -> None:
    pytest.importorskip("cv2")
    found = canny(a_square())
    assert found.shape == (64, 64)
    assert set(np.unique(found)) == {0, 255}
    assert found[20:44, 20:44].max() == 0
    assert found[:12].max() == found[:, :12].max() == 0
    assert found[14:18, 32].max() == found[32, 46:50].max() == 255


def test_grey_and_colour_are_accepted_and_higher_thresholds_find_less() -> None:
    pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    counts = [(canny(noise, low, 2 * low) > 0).sum() for low in (50, 200, 800)]
    assert counts[0] > counts[1] > counts[2]
    assert np.array_equal(canny(noise), canny(np.repeat(noise[..., None], 3, axis=2)))


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
)
def test_other_pictures_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="edges are found in bytes"):
        canny(picture)


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-1, 10), (200, 100)])
def test_thresholds_are_checked(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="0 < low <= high"):
        canny(a_square(), low, high)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"masactrl\[layout\]"):
        canny(a_square())
