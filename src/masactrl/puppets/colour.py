"""sRGB <-> CIELAB, the space in which coat colours are compared.

    c_linear = ((c + 0.055) / 1.055)^2.4    (c / 12.92 below 0.04045)            IEC 61966-2-1
    L = 116 f(Y/Yn) - 16,  a = 500 (f(X/Xn) - f(Y/Yn)),  b = 200 (f(Y/Yn) - f(Z/Zn))
    f(t) = t^(1/3)    (t / (3 d^2) + 4/29 below d^3, d = 6/29)                   CIE 15

White is D65, the white of sRGB. One unit of distance is about the smallest difference that is seen.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

# Linear sRGB -> XYZ divided by the white's XYZ, row by row: a grey has three equal values.
_TO_XYZ: Final = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_DELTA: Final = 6 / 29


def srgb_to_lab(colour: Tensor) -> Tensor:
    """(..., 3) sRGB in [0, 1], clipped to it -> (..., 3) L in [0, 100], a and b about [-110, 110].

    Differentiable everywhere, black included.
    """
    c = colour.clamp(0, 1)
    linear = torch.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    t = linear @ torch.tensor(_TO_XYZ, dtype=c.dtype, device=c.device).T
    # The clamp keeps the gradient of the root, which is not taken near zero, finite there.
    root = t.clamp(min=_DELTA**3) ** (1 / 3)
    x, y, z = torch.where(t > _DELTA**3, root, t / (3 * _DELTA**2) + 4 / 29).unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


def lab_to_srgb(lab: Tensor) -> Tensor:
    """(..., 3) CIELAB -> (..., 3) sRGB in [0, 1]; colours that sRGB lacks are clipped."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), -1)
    t = torch.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4 / 29))
    back = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).to(lab)
    linear = (t @ back.T).clamp(0, 1)
    # The clamp keeps the power's gradient finite where the straight part is taken.
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curve, linear * 12.92)


def lab_distance(first: Tensor, second: Tensor) -> Tensor:
    """(..., 3) x 2 -> (...) Euclidean distance in CIELAB (CIE 1976)."""
    return (first - second).square().sum(-1).sqrt()
