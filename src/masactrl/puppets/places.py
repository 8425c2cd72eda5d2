"""Backdrops: sky, sun, cloud, ridge, five things on the horizon, ground; six palettes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from masactrl.puppets.palettes import PALETTES, Place
from masactrl.puppets.scene import Backdrop

_THINGS: Final = 5
HORIZON: Final = 0.62
GOLDEN: Final = 0.61803


def paint_backdrop(
    canvas: Tensor, backdrops: Sequence[Backdrop], x: Tensor, y: Tensor, pixel: Tensor
) -> None:
    """Paint the places.

    Args:
        canvas: (images, 3, height, width), overwritten with sRGB in [0, 1].
        backdrops: one per image.
        x: (images, 1, width) and y: (images, height, 1), scene coordinates of the pixel centres in
            picture heights, y downwards.
        pixel: (images, 1, 1) size of a pixel in the same unit, for anti-aliasing.
    """
    rows = [PALETTES[b.place] for b in backdrops]
    table = {
        f.name: torch.tensor([getattr(r, f.name) for r in rows], device=x.device)[..., None, None]
        for f in fields(Place)
    }
    p = torch.tensor([b.parameters for b in backdrops], device=x.device)[:, :, None, None].unbind(1)
    horizon = HORIZON + 0.04 * (p[9] - 0.5)
    warm = torch.tensor((1.06, 1.0, 0.92), device=x.device)[None, :, None, None]
    sight = _Sight(x, y, pixel, table, p, horizon, 1 + (warm - 1) * (2 * p[6][:, None] - 1))
    # Ground hides what is below the horizon, so each is painted where it is seen.
    ground = window(y, horizon - pixel, torch.full_like(horizon, 1e3))
    sky = window(y, torch.full_like(horizon, -1e3), horizon + pixel)
    _paint_sky(canvas[:, :, sky], sight.cut(sky))
    if any(row.thing_height > 0 for row in rows):
        _paint_things(canvas, sight, sky, lit=any(row.windows > 0 for row in rows))
    _paint_ground(canvas, sight, ground, sky.stop, banded=any(row.band_height > 0 for row in rows))
    canvas.clamp_(0, 1)


@dataclass(frozen=True, slots=True)
class _Sight:
    """What the painters of one batch share: pixels, palettes, parameters, horizon, tint."""

    x: Tensor
    y: Tensor
    pixel: Tensor
    table: dict[str, Tensor]
    p: tuple[Tensor, ...]
    horizon: Tensor
    tint: Tensor

    def cut(self, rows: slice, columns: slice = slice(None)) -> _Sight:
        """The same, seen through a window."""
        return replace(self, x=self.x[:, :, columns], y=self.y[:, rows])

    def cover(self, distance: Tensor) -> Tensor:
        """Anti-aliased coverage of a signed distance (negative inside)."""
        return distance.div(-self.pixel).add_(0.5).clamp_(0, 1)


def window(grid: Tensor, low: Tensor, high: Tensor) -> slice:
    """The pixels of an axis, (images, ...) sorted, that lie between (images, 1, 1) ends anywhere.

    A pixel more on either side; what is not seen at all gives an empty slice.
    """
    flat = grid.reshape(grid.shape[0], -1)
    count = flat.shape[1]
    if count < 2:  # a close-up may show no ground, or no sky; such a grid has no step
        return slice(0, count)
    step = flat[:, 1] - flat[:, 0]
    first = ((low.flatten() - flat[:, 0]) / step - 1.0).floor().amin().clamp(0, count)
    last = ((high.flatten() - flat[:, 0]) / step + 2.0).ceil().amax().clamp(0, count)
    begin, end = torch.stack((first, last)).int().tolist()
    return slice(begin, max(begin, end))


def _over(canvas: Tensor, colour: Tensor, alpha: Tensor) -> None:
    """Paint ``colour`` (images, 3, ...) over ``canvas`` in place, ``alpha`` (images, h, w)."""
    canvas.lerp_(colour.expand_as(canvas), alpha[:, None].expand_as(canvas))


def _paint_sky(canvas: Tensor, sight: _Sight) -> None:
    """Sky, the sun with a soft glow, a flat cloud of three lobes, a ridge of hills."""
    x, y, p, table, pixel = sight.x, sight.y, sight.p, sight.table, sight.pixel
    t = (y / sight.horizon).clamp(0, 1)[:, None]
    canvas.copy_(torch.lerp(table["sky"], table["haze"], t).mul(sight.tint).expand_as(canvas))

    sx, sy = 0.1 + 0.8 * p[0], 0.10 + 0.16 * p[1]
    distance = torch.hypot(x - sx, y - sy)
    sun = torch.tensor((1.0, 0.95, 0.74), device=x.device)[None, :, None, None]
    _over(canvas, sun, torch.exp(distance * -9.0).mul_(0.45))
    reach = 0.052 + pixel
    seen = (window(y, sy - reach, sy + reach), window(x, sx - reach, sx + reach))
    _over(canvas[:, :, *seen], sun, sight.cover(distance[:, *seen] - 0.052))

    cx, cy = 0.05 + 0.9 * p[8], 0.12 + 0.14 * ((p[8] * 7.7) % 1.0)
    tall = 0.048 + pixel
    seen = (window(y, cy - tall, cy + tall), window(x, cx - 0.14 - pixel, cx + 0.15 + pixel))
    here = sight.cut(*seen)
    cloud = torch.full_like(distance[:, *seen], 1e3)
    for dx, dy, r in ((-0.085, 0.012, 0.032), (0.0, 0.0, 0.048), (0.09, 0.010, 0.036)):
        lobe = torch.hypot((here.x - cx - dx) * 0.62, here.y - cy - dy) - r
        cloud = torch.minimum(cloud, lobe)
    _over(canvas[:, :, *seen], torch.ones_like(sun), sight.cover(cloud) * 0.75)

    turn = 2 * torch.pi
    wave = 0.6 * torch.sin(turn * (table["ridge_waves"] * x + p[2]))
    wave = wave + 0.4 * torch.sin(turn * (2.3 * table["ridge_waves"] * x + 1.7 * p[2] + p[3]))
    top = sight.horizon - table["ridge_height"] * (0.55 + 0.45 * wave)
    hills = window(y, top.amin(2, keepdim=True) - pixel, torch.full_like(pixel, 1e3))
    alpha = sight.cover(top - y[:, hills])
    _over(canvas[:, :, hills], table["ridge"] * sight.tint, alpha)


def _paint_things(canvas: Tensor, sight: _Sight, sky: slice, *, lit: bool) -> None:
    """Five things on the horizon: trees, cacti, houses; some houses with lit windows."""
    p, table, pixel = sight.p, sight.table, sight.pixel
    foot = sight.horizon + 0.01
    for k in range(_THINGS):
        u = (p[4] * 3.1 + k * GOLDEN) % 1.0
        v = (p[5] * 2.7 + k * GOLDEN * 1.7) % 1.0
        centre = (k + 0.5 + 0.7 * (u - 0.5)) / _THINGS
        height = table["thing_height"] * (0.6 + 0.5 * v) + 1e-6
        width = table["thing_width"] * (0.75 + 0.4 * u)
        half = width * 0.5 + pixel
        tall = window(sight.y, foot - height - pixel, foot + pixel)
        across = window(sight.x, centre - half, centre + half)
        rows = slice(tall.start, max(tall.start, min(tall.stop, sky.stop)))
        here = sight.cut(rows, across)
        view = canvas[:, :, rows, across]
        rise = (foot - here.y) / height
        inside = rise.clamp(0, 1)
        profile = (1 - table["taper"] * inside) * (1 - table["round"])
        profile = profile + table["round"] * torch.sqrt(4 * inside * (1 - inside))
        gap = torch.maximum((here.x - centre).abs() - width * 0.5 * profile, (rise - 1) * height)
        gap = torch.maximum(gap, -rise * height)
        alpha = sight.cover(gap) * (table["thing_height"] > 0)
        _over(view, table["thing"] * (0.85 + 0.3 * u[:, None]) * sight.tint, alpha)
        if lit:
            pane = (torch.sin(here.x * 150) > 0.1) & (torch.sin(here.y * 130) > 0.2)
            light = torch.tensor((0.98, 0.86, 0.55), device=canvas.device)[None, :, None, None]
            _over(view, light, alpha * pane * table["windows"] * 0.45 * (gap < -0.008))


def _paint_ground(
    canvas: Tensor, sight: _Sight, rows: slice, opaque_from: int, *, banded: bool
) -> None:
    """A gradient with slow swells; a band (sea, pavement) behind it."""
    p, table, turn = sight.p, sight.table, 2 * torch.pi
    here = sight.cut(rows)
    x, y, depth = here.x, here.y, here.y - sight.horizon
    t = (depth / (1 - HORIZON)).clamp(0, 1)[:, None]
    swell = torch.sin(turn * (1.3 * x + p[7])) * torch.sin(turn * (4.5 * y + p[7] * 2)) * 0.018
    ground = torch.lerp(table["far"], table["near"], t).mul(sight.tint) + swell[:, None]
    edge = max(0, opaque_from - rows.start)  # rows in which the sky may show through
    canvas[:, :, rows.start + edge :] = ground[:, :, edge:]
    _over(
        canvas[:, :, rows.start : rows.start + edge],
        ground[:, :, :edge],
        sight.cover(-depth[:, :edge]),
    )
    if banded:
        end = table["band_height"]
        foam = 0.004 * torch.sin(turn * (2.5 * x + p[7]))
        strip = window(y, sight.horizon - sight.pixel, sight.horizon + end + 0.004 + sight.pixel)
        deep = depth[:, strip]
        alpha = sight.cover(-deep) * sight.cover(deep - end - foam) * (end > 0)
        _over(canvas[:, :, rows][:, :, strip], table["band"] * sight.tint, alpha)
