"""Coats: the colour of a point of the body from its place on the limb, not in the picture.

A point of a limb has coordinates (u, v): distance along the bone and signed distance across it, in
body units. The pattern is a function of (u, v) alone, so it moves with the limb and survives any
pose. Two plane waves give every pattern:

    m(u, v) = a1 sin(k1 . (u, v) + phi) + a2 sin(k2 . (u, v) + phi) - threshold     (accent: m > 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Final

import torch
from torch import Tensor

from masactrl.puppets.scene import Scene

#: pattern -> (a1, turns per unit, angle 1, a2, angle 2, threshold); radians from the bone.
_WAVES: Final = {
    "plain": (0.0, 1.0, 0.0, 0.0, 0.0, 9.0),
    "stripes": (1.0, 4.2, 0.0, 0.0, 0.0, 0.15),
    # sin a + sin b over two crossed waves is a lattice of round dots
    "spots": (0.5, 3.9, pi / 4, 0.5, -pi / 4, 0.42),
    "patches": (0.6, 1.25, 0.5, 0.55, -0.9, 0.10),
    "socks": (0.0, 1.0, 0.0, 0.0, 0.0, 9.0),
}

_FIXED: Final = {
    "white": (0.97, 0.97, 0.95),
    "eye": (0.07, 0.06, 0.08),
    "nose": (0.12, 0.09, 0.10),
    "ivory": (0.95, 0.91, 0.80),
}

#: What has no coat; its number stands where a coat keeps u.
_CODES: Final = {"collar": 0.0, "white": 1.0, "eye": 2.0, "nose": 3.0, "ivory": 4.0}


def _put(where: Tensor, chosen: Tensor, values: Tensor) -> None:
    """Overwrite ``where`` with ``values`` at the chosen pixels, in place."""
    torch.where(chosen, values, where, out=where)


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def limb_table(start: Tensor, end: Tensor, radii: Tensor, along: Tensor, scale: Tensor) -> Tensor:
    """What painting needs to know of every limb, in one tensor.

    Args:
        start, end, radii: (images, limbs, 2), picture heights.
        along: (images, limbs) body units.
        scale: (images,) picture heights per body unit.

    Returns:
        (numbers, images, limbs, 1, 1): start x and y, bone x and y, direction over length x and y,
        first radius, growth to the second, distance to keep away when it does not exist, length,
        along, and the direction across x and y, the last four in body units.
    """
    bone = end - start
    length2 = (bone * bone).sum(-1, keepdim=True).clamp(min=1e-8)
    length = length2.sqrt()
    inverse = 1 / scale[:, None, None]
    across = bone / length * inverse
    # A limb that does not exist has a negative radius: keep it out altogether.
    gone = (radii.amax(-1, keepdim=True) <= 0) * 1e3
    first = radii[..., :1]
    numbers = (
        *(start, bone, bone / length2, first, radii[..., 1:] - first),
        *(gone, length * inverse, along[..., None], across.flip(-1)),
    )
    return torch.cat(numbers, -1).movedim(-1, 0)[..., None, None]


@dataclass(frozen=True, slots=True)
class CoatPaint:
    """The coats of a batch: colours (images, 3, 1, 1), wave numbers (images, 1, 1)."""

    coat: Tensor
    accent: Tensor
    collar: Tensor
    first: tuple[Tensor, Tensor, Tensor]  # amplitude, k along, k across
    second: tuple[Tensor, Tensor, Tensor]
    phase: Tensor
    threshold: Tensor
    sharpness: Tensor
    socks: Tensor

    @staticmethod
    def of(scenes: Sequence[Scene], device: torch.device) -> CoatPaint:
        """Read the identities."""
        who = [s.identity for s in scenes]
        waves = [_WAVES[i.pattern] for i in who]
        turn = [2 * pi * w[1] * i.frequency for w, i in zip(waves, who, strict=True)]

        def wave(amplitude: int, angle: int) -> tuple[Tensor, Tensor, Tensor]:
            tilt = [w[angle] + i.angle for w, i in zip(waves, who, strict=True)]
            return (
                _column([float(w[amplitude]) for w in waves], device),
                _column([k * cos(t) for k, t in zip(turn, tilt, strict=True)], device),
                _column([k * sin(t) for k, t in zip(turn, tilt, strict=True)], device),
            )

        def colours(values: list[tuple[float, float, float]]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, :, None, None]

        k = _column(turn, device)
        return CoatPaint(
            coat=colours([i.coat for i in who]),
            accent=colours([i.accent for i in who]),
            collar=colours([i.collar or i.coat for i in who]),
            first=wave(0, 2),
            second=wave(3, 4),
            phase=_column([2 * pi * i.phase for i in who], device),
            threshold=_column([w[5] for w in waves], device),
            sharpness=1 / (k * 0.02),
            socks=_column([float(i.pattern == "socks") for i in who], device),
        )

    def start(self, x: Tensor, y: Tensor) -> Surface:
        """An empty surface over the pixels x (images, 1, w) and y (images, h, 1)."""
        return Surface(self, x, y)


class Surface:
    """The union of some limbs: per pixel the nearest limb's distance, (u, v), accent and light."""

    def __init__(self, paint: CoatPaint, x: Tensor, y: Tensor) -> None:
        shape = (x.shape[0], y.shape[1], x.shape[2])
        self._paint, self._x, self._y = paint, x, y
        self.distance = torch.full(shape, 1e3, device=x.device)
        self._u = torch.zeros(shape, device=x.device)
        self._v = torch.zeros(shape, device=x.device)
        self._accent = torch.zeros(shape, device=x.device)
        self._light = torch.zeros(shape, device=x.device)

    def unite(self, limb: Tensor, kind: str, box: tuple[slice, slice]) -> None:
        """Add one limb.

        Args:
            limb: (numbers, images, 1, 1), a limb of `limb_table`.
            kind: see `anatomy.Rig`.
            box: rows and columns of this surface that hold it.
        """
        rows, columns = box
        x, y = self._x[:, :, columns], self._y[:, rows]
        ax, ay, bx, by, tx, ty, r0, swell, gone, length, along, vx, vy = limb.unbind(0)
        t = ((x - ax) * tx) + ((y - ay) * ty)
        t.clamp_(0, 1)
        dx = torch.addcmul(x - ax, t, bx, value=-1)
        dy = torch.addcmul(y - ay, t, by, value=-1)
        radius = swell.mul(t).add_(r0)
        gap = torch.hypot(dx, dy).sub_(radius).add_(gone)
        distance = self.distance[:, rows, columns]
        nearer = gap < distance
        torch.minimum(distance, gap, out=distance)
        # A pupil lies on the white of the eye, which always is the nearer limb.
        shown = gap < 0 if kind == "eye" else nearer
        light = dy.mul(-0.9).add_(dx, alpha=-0.25).div_(radius.clamp_(min=1e-4))
        _put(self._light[:, rows, columns], shown, light)
        if kind in _CODES:
            self._u[:, rows, columns].masked_fill_(shown, _CODES[kind])
            return
        v = dx.mul_(vx).addcmul_(dy, vy, value=-1)
        _put(self._v[:, rows, columns], nearer, v)
        accent = self._accent[:, rows, columns]
        extra = self._extra(kind, t)
        if extra is None:
            accent.masked_fill_(nearer, 0.0)
        else:
            _put(accent, nearer, extra)
        u = t.mul_(length).add_(along)
        _put(self._u[:, rows, columns], nearer, u)

    def _extra(self, kind: str, t: Tensor) -> Tensor | None:
        """Accent that belongs to the limb itself, in [0, 1]; None is none."""
        if kind == "tip":
            return (t * 8 - 1.5).clamp_(0, 1)
        if kind == "inner":
            return torch.ones_like(t)
        if kind == "muzzle":
            return (t * 6 - 0.6).clamp_(0, 1)
        if kind == "sock":
            return self._paint.socks.expand_as(t)
        return None

    def colour(self, part: str) -> Tensor:
        """(images, 3, h, w) sRGB of the united limbs."""
        if part in ("face", "horns", "collar"):
            base = self._solid_colour(part)
        else:
            base = torch.lerp(self._paint.coat, self._paint.accent, self._pattern()[:, None])
        dim = 0.74 if part in ("far legs", "far ear") else 1.0
        # A rim a little darker than the coat keeps limbs apart where they cross.
        rim = self.distance.mul(85.0).add_(1.0).clamp_(0, 1)
        if part == "face":
            rim = torch.zeros_like(rim)
        light = self._light.clamp(-1, 1).mul_(0.15).add_(0.97).sub_(rim, alpha=0.36).mul_(dim)
        return base.mul(light[:, None]).clamp_(0, 1)

    def _pattern(self) -> Tensor:
        """Share of accent, (images, h, w) in [0, 1]: the equation at the head of this file."""
        p = self._paint
        a1, k1u, k1v = p.first
        a2, k2u, k2v = p.second
        wave1 = torch.addcmul(p.phase.expand_as(self._u), self._u, k1u).addcmul_(self._v, k1v)
        wave2 = torch.addcmul(p.phase.expand_as(self._u), self._u, k2u).addcmul_(self._v, k2v)
        m = wave1.sin_().mul_(a1).add_(wave2.sin_().mul_(a2)).sub_(p.threshold)
        share = m.mul_(p.sharpness).add_(0.5).clamp_(0, 1)
        return torch.maximum(share, self._accent)

    def _solid_colour(self, part: str) -> Tensor:
        if part == "collar":
            return self._paint.collar.expand(-1, -1, *self._u.shape[1:])
        shape = (self._u.shape[0], 3, *self._u.shape[1:])
        colour = self._u.new_zeros(shape)
        for name in ("white", "eye", "nose") if part == "face" else ("ivory",):
            rgb = torch.tensor(_FIXED[name], device=self._u.device)[None, :, None, None]
            colour = torch.where((self._u == _CODES[name])[:, None], rgb, colour)
        return colour
