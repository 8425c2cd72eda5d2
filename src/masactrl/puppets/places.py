"""Backdrops: sky, sun, cloud, ridge, five things on the horizon, ground; six palettes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from masactrl.puppets.scene import PLACES, Backdrop

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


_PLACES: Final = {
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

_THINGS: Final = 5
HORIZON: Final = 0.62
GOLDEN: Final = 0.61803


def paint_backdrop(backdrops: Sequence[Backdrop], x: Tensor, y: Tensor, pixel: Tensor) -> Tensor:
    """Paint the places.

    Args:
        backdrops: one per image.
        x: (images, 1, width) and y: (images, height, 1), scene coordinates of the pixel centres in
            picture heights, y downwards.
        pixel: (images, 1, 1) size of a pixel in the same unit, for anti-aliasing.

    Returns:
        (images, 3, height, width) sRGB in [0, 1].
    """
    rows = [_PLACES[b.place] for b in backdrops]
    table = {
        f.name: torch.tensor([getattr(r, f.name) for r in rows], device=x.device)[..., None, None]
        for f in fields(Place)
    }
    p = torch.tensor([b.parameters for b in backdrops], device=x.device)[:, :, None, None].unbind(1)
    horizon = HORIZON + 0.04 * (p[9] - 0.5)
    depth = y - horizon

    def over(canvas: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
        return canvas.lerp_(colour.expand_as(canvas), alpha[:, None].expand_as(canvas))

    def cover(distance: Tensor) -> Tensor:
        """Anti-aliased coverage of a signed distance (negative inside)."""
        return distance.div(-pixel).add_(0.5).clamp_(0, 1)

    t = (y / horizon).clamp(0, 1)[:, None]
    warm = torch.tensor((1.06, 1.0, 0.92), device=x.device)[None, :, None, None]
    tint = 1 + (warm - 1) * (2 * p[6][:, None] - 1)
    shape = (len(rows), 3, y.shape[1], x.shape[2])
    canvas = torch.lerp(table["sky"], table["haze"], t).mul(tint).expand(shape).clone()

    # Sun with a soft glow, then a flat cloud of three lobes.
    sx, sy = 0.1 + 0.8 * p[0], 0.10 + 0.16 * p[1]
    distance = torch.hypot(x - sx, y - sy)
    sun = torch.tensor((1.0, 0.95, 0.74), device=x.device)[None, :, None, None]
    canvas = over(canvas, sun, (0.45 * torch.exp(distance * -9.0)))
    canvas = over(canvas, sun, cover(distance - 0.052))
    cx, cy = 0.05 + 0.9 * p[8], 0.12 + 0.14 * ((p[8] * 7.7) % 1.0)
    cloud = torch.full_like(distance, 1e3)
    for dx, dy, r in ((-0.085, 0.012, 0.032), (0.0, 0.0, 0.048), (0.09, 0.010, 0.036)):
        cloud = torch.minimum(cloud, torch.hypot((x - cx - dx) * 0.62, y - cy - dy) - r)
    white = torch.ones_like(sun)
    canvas = over(canvas, white, cover(cloud) * 0.75)

    # A ridge of hills, dunes or mountains.
    turn = 2 * torch.pi
    wave = 0.6 * torch.sin(turn * (table["ridge_waves"] * x + p[2]))
    wave = wave + 0.4 * torch.sin(turn * (2.3 * table["ridge_waves"] * x + 1.7 * p[2] + p[3]))
    top = horizon - table["ridge_height"] * (0.55 + 0.45 * wave)
    canvas = over(canvas, table["ridge"] * tint, cover(top - y))

    # Five things on the horizon: trees, cacti, houses.
    pane = (torch.sin(x * 150) > 0.1) & (torch.sin(y * 130) > 0.2)
    light = torch.tensor((0.98, 0.86, 0.55), device=x.device)[None, :, None, None]
    for k in range(_THINGS):
        u = (p[4] * 3.1 + k * GOLDEN) % 1.0
        v = (p[5] * 2.7 + k * GOLDEN * 1.7) % 1.0
        centre = (k + 0.5 + 0.7 * (u - 0.5)) / _THINGS
        height = table["thing_height"] * (0.6 + 0.5 * v) + 1e-6
        width = table["thing_width"] * (0.75 + 0.4 * u)
        rise = (horizon + 0.01 - y) / height
        inside = rise.clamp(0, 1)
        profile = (1 - table["taper"] * inside) * (1 - table["round"])
        profile = profile + table["round"] * torch.sqrt(4 * inside * (1 - inside))
        gap = torch.maximum((x - centre).abs() - width * 0.5 * profile, (rise - 1) * height)
        gap = torch.maximum(gap, -rise * height)
        alpha = cover(gap) * (table["thing_height"] > 0)
        shade = table["thing"] * (0.85 + 0.3 * u[:, None]) * tint
        canvas = over(canvas, shade, alpha)
        lit = alpha * pane * table["windows"] * 0.45 * (gap < -0.008)
        canvas = over(canvas, light, lit)

    # Ground: gradient with slow swells; a band (sea, pavement) behind it.
    t = (depth / (1 - HORIZON)).clamp(0, 1)[:, None]
    swell = torch.sin(turn * (1.3 * x + p[7])) * torch.sin(turn * (4.5 * y + p[7] * 2)) * 0.018
    ground = torch.lerp(table["far"], table["near"], t).mul(tint) + swell[:, None]
    band_end = table["band_height"]
    foam = 0.004 * torch.sin(turn * (2.5 * x + p[7]))
    canvas = over(canvas, ground, cover(-depth))
    band = cover(-depth) * cover(depth - band_end - foam) * (band_end > 0)
    canvas = over(canvas, table["band"] * tint, band)
    return canvas.clamp_(0, 1)


if set(_PLACES) != set(PLACES):
    raise RuntimeError("place palettes do not match the names in masactrl.puppets.scene")
