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


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


@dataclass(frozen=True, slots=True)
class CoatPaint:
    """The coats of a batch: colours (images, 3, 1, 1), wave numbers and scales (images, 1, 1)."""

    coat: Tensor
    accent: Tensor
    collar: Tensor
    first: tuple[Tensor, Tensor, Tensor]  # amplitude, k along, k across
    second: tuple[Tensor, Tensor, Tensor]
    phase: Tensor
    threshold: Tensor
    sharpness: Tensor
    socks: Tensor
    scale: Tensor

    @staticmethod
    def of(scenes: Sequence[Scene], scale: Tensor, device: torch.device) -> CoatPaint:
        """Read the identities; ``scale``: (images,) picture heights per body unit."""
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
            scale=scale[:, None, None],
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
        self._fixed: str | None = None

    def unite(self, start: Tensor, end: Tensor, radii: Tensor, along: Tensor, kind: str) -> None:
        """Add one limb.

        Args:
            start, end, radii: (images, 2), picture heights.
            along: (images,) body units.
            kind: see `anatomy.Rig`.
        """
        ax, ay = start[:, :, None, None].unbind(1)
        bone = end - start
        bx, by = bone[:, :, None, None].unbind(1)
        length2 = (bone * bone).sum(1)[:, None, None].clamp(min=1e-8)
        length = length2.sqrt()
        r0, r1 = radii[:, :, None, None].unbind(1)
        t = ((self._x - ax) * (bx / length2)) + ((self._y - ay) * (by / length2))
        t.clamp_(0, 1)
        dx = torch.addcmul(self._x - ax, t, bx, value=-1)
        dy = torch.addcmul(self._y - ay, t, by, value=-1)
        radius = r0 + (r1 - r0) * t
        gap = torch.hypot(dx, dy).sub_(radius)
        # A limb that does not exist has a negative radius: keep it out altogether.
        gap.add_((torch.maximum(r0, r1) <= 0) * 1e3)
        nearer = gap < self.distance
        self.distance = torch.minimum(self.distance, gap)
        if kind in ("white", "eye", "nose", "ivory", "collar"):
            # A pupil lies on the white of the eye, which always is the nearer limb.
            self._solid(kind, gap < 0 if kind == "eye" else nearer, dx, dy, radius)
            return
        paint = self._paint
        inverse = 1 / paint.scale
        u = t.mul(length * inverse).add_(along[:, None, None])
        v = dx.mul(by / length * inverse).addcmul_(dy, bx / length * inverse, value=-1)
        light = dy.mul(-0.9).add_(dx, alpha=-0.25).div_(radius.clamp(min=1e-4))
        self._u = torch.where(nearer, u, self._u)
        self._v = torch.where(nearer, v, self._v)
        self._light = torch.where(nearer, light, self._light)
        self._accent = torch.where(nearer, self._extra(kind, t), self._accent)

    def _extra(self, kind: str, t: Tensor) -> Tensor:
        """Accent that belongs to the limb itself, in [0, 1]."""
        if kind == "tip":
            return (t * 8 - 1.5).clamp_(0, 1)
        if kind == "inner":
            return torch.ones_like(t)
        if kind == "muzzle":
            return (t * 6 - 0.6).clamp_(0, 1)
        if kind == "sock":
            return self._paint.socks * torch.ones_like(t)
        return torch.zeros_like(t)

    def _solid(self, kind: str, nearer: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> None:
        light = dy.mul(-0.9).add_(dx, alpha=-0.25).div_(radius.clamp(min=1e-4))
        self._light = torch.where(nearer, light, self._light)
        codes = {"collar": 0.0, "white": 1.0, "eye": 2.0, "nose": 3.0, "ivory": 4.0}
        self._u = torch.where(nearer, codes[kind], self._u)
        self._fixed = kind

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
        codes = {"face": ((1.0, "white"), (2.0, "eye"), (3.0, "nose")), "horns": ((4.0, "ivory"),)}
        shape = (self._u.shape[0], 3, *self._u.shape[1:])
        colour = self._u.new_zeros(shape)
        for code, name in codes[part]:
            rgb = torch.tensor(_FIXED[name], device=self._u.device)[None, :, None, None]
            colour = torch.where((self._u == code)[:, None], rgb, colour)
        return colour
