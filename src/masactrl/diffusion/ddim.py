r"""One step down (towards the picture) and one step up (towards noise), side by side.

    z_0^ = (z - sqrt(1 - a) eps) / sqrt(a)                                (DDIM, Eq. 9 and 12)

    down   z' = sqrt(a') z_0^ + sqrt(1 - a' - sigma^2) eps + sigma w       from a to a' > a
    up     z  = sqrt(a) z_0^' + sqrt(1 - a) eps                            from a' back to a

    eps     the noise the network finds; going down it is asked about z, going up it would have to
            be asked about the z that is only being computed (see `masactrl.inversion`)
    sigma   how much of the step is fresh noise w, see `Walk`

Song, Meng, Ermon: Denoising Diffusion Implicit Models, arXiv 2010.02502.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Walk", "mean_down", "spread", "step_down", "step_up"]

Walk = Literal["ddim", "ddpm", "consistency", "euler", "midpoint", "fireflow"]
"""How much fresh noise a step takes: none (DDIM), the posterior's (DDPM, eta = 1), or only fresh
noise (sigma^2 = 1 - a': every step is a new guess of the picture, noised anew; InfEdit's DDCM). The
last three are rules of flows, see `masactrl.diffusion.flow`, and take none."""


def spread(walk: Walk, a: float, a_next: float) -> float:
    """Return sigma of a step from level `a` to the cleaner `a_next`."""
    if walk == "ddim" or a_next >= 1:
        return 0.0
    if walk == "consistency":
        return math.sqrt(1 - a_next)
    return math.sqrt(max(0.0, (1 - a_next) / (1 - a) * (1 - a / a_next)))


def mean_down(z: Tensor, eps: Tensor, a: float, a_next: float, sigma: float = 0.0) -> Tensor:
    """Return where the step from `a` to the cleaner `a_next` leads, without its fresh noise."""
    z_0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
    return math.sqrt(a_next) * z_0 + math.sqrt(max(0.0, 1 - a_next - sigma**2)) * eps


def step_down(
    z: Tensor,
    eps: Tensor,
    a: float,
    a_next: float,
    *,
    walk: Walk = "ddim",
    w: Tensor | None = None,
) -> Tensor:
    """Return the latents at the cleaner level `a_next`.

    Args:
        z: latents at level `a`, any shape.
        eps: the noise in them, of their shape.
        a: alpha_bar where they are.
        a_next: alpha_bar where they go to.
        walk: see `Walk`.
        w: the fresh noise, where the walk takes some; a step for which sigma is 0 adds it as it is.
    """
    sigma = spread(walk, a, a_next)
    mean = mean_down(z, eps, a, a_next, sigma)
    return mean if w is None else mean + (sigma or 1.0) * w


def step_up(z_next: Tensor, eps: Tensor, a_next: float, a: float) -> Tensor:
    """Return the latents at the noisier level `a`; the inverse of `step_down` for the same `eps`.

    Args:
        z_next: latents at level `a_next`, any shape.
        eps: the noise in them, of their shape.
        a_next: alpha_bar where they are.
        a: alpha_bar where they go to.
    """
    z_0 = (z_next - math.sqrt(1 - a_next) * eps) / math.sqrt(a_next)
    return math.sqrt(a) * z_0 + math.sqrt(1 - a) * eps
