"""What each place looks like: colours, and the shapes of ridge, things and ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from masactrl.puppets.scene import PLACES

Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Palette and shapes of a place; lengths as shares of the picture's height."""

    sky: Rgb
    haze: Rgb
    ridge: Rgb
    ridge_height: float
    ridge_waves: float
    far: Rgb
    near: Rgb
    band: Rgb
    band_height: float
    thing: Rgb
    thing_width: float
    thing_height: float
    taper: float  # 1: a conifer's triangle, 0: straight sides
    round: float  # 1: an ellipse
    windows: float


PALETTES: Final = {
    "meadow": Place(
        sky=(0.36, 0.62, 0.92),
        haze=(0.78, 0.90, 0.97),
        ridge=(0.42, 0.66, 0.38),
        ridge_height=0.07,
        ridge_waves=0.9,
        far=(0.47, 0.74, 0.33),
        near=(0.29, 0.58, 0.22),
        band=(0.47, 0.74, 0.33),
        band_height=0.0,
        thing=(0.22, 0.48, 0.22),
        thing_width=0.085,
        thing_height=0.17,
        taper=0.0,
        round=1.0,
        windows=0.0,
    ),
    "beach": Place(
        sky=(0.32, 0.70, 0.93),
        haze=(0.86, 0.95, 0.97),
        ridge=(0.55, 0.72, 0.80),
        ridge_height=0.015,
        ridge_waves=0.5,
        far=(0.96, 0.87, 0.66),
        near=(0.87, 0.74, 0.50),
        band=(0.13, 0.50, 0.70),
        band_height=0.10,
        thing=(0.98, 0.98, 0.96),
        thing_width=0.05,
        thing_height=0.0,
        taper=1.0,
        round=0.0,
        windows=0.0,
    ),
    "desert": Place(
        sky=(0.93, 0.66, 0.44),
        haze=(0.99, 0.90, 0.70),
        ridge=(0.80, 0.50, 0.32),
        ridge_height=0.10,
        ridge_waves=0.6,
        far=(0.92, 0.68, 0.40),
        near=(0.80, 0.52, 0.28),
        band=(0.92, 0.68, 0.40),
        band_height=0.0,
        thing=(0.30, 0.46, 0.26),
        thing_width=0.028,
        thing_height=0.19,
        taper=0.1,
        round=0.35,
        windows=0.0,
    ),
    "forest": Place(
        sky=(0.60, 0.76, 0.72),
        haze=(0.84, 0.92, 0.82),
        ridge=(0.24, 0.42, 0.33),
        ridge_height=0.13,
        ridge_waves=2.2,
        far=(0.34, 0.46, 0.24),
        near=(0.22, 0.33, 0.17),
        band=(0.34, 0.46, 0.24),
        band_height=0.0,
        thing=(0.10, 0.28, 0.18),
        thing_width=0.11,
        thing_height=0.44,
        taper=0.95,
        round=0.0,
        windows=0.0,
    ),
    "snow": Place(
        sky=(0.62, 0.72, 0.86),
        haze=(0.90, 0.93, 0.98),
        ridge=(0.70, 0.78, 0.90),
        ridge_height=0.17,
        ridge_waves=1.2,
        far=(0.95, 0.97, 1.0),
        near=(0.82, 0.88, 0.96),
        band=(0.95, 0.97, 1.0),
        band_height=0.0,
        thing=(0.36, 0.50, 0.54),
        thing_width=0.055,
        thing_height=0.17,
        taper=0.95,
        round=0.0,
        windows=0.0,
    ),
    "city": Place(
        sky=(0.56, 0.58, 0.74),
        haze=(0.95, 0.80, 0.74),
        ridge=(0.62, 0.60, 0.70),
        ridge_height=0.05,
        ridge_waves=0.3,
        far=(0.50, 0.50, 0.53),
        near=(0.37, 0.37, 0.41),
        band=(0.70, 0.68, 0.68),
        band_height=0.035,
        thing=(0.36, 0.36, 0.48),
        thing_width=0.085,
        thing_height=0.40,
        taper=0.0,
        round=0.0,
        windows=1.0,
    ),
}

if set(PALETTES) != set(PLACES):
    raise RuntimeError("place palettes do not match the names in masactrl.puppets.scene")
