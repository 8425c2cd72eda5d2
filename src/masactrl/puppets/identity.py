r"""Whether two pictures show the same animal: the colours they show, and the pattern they show.

    SW(A, B) = 2 mean_u mean_q | Q_q(A u) - Q_q(B u) |               sliced Wasserstein distance
    E        = SW(A, B) + w [pattern differs],   the same animal where E <= `SAME`

    A, B     CIELAB colours of the pixels of the two animals, (pixels, 3)
    u        `DIRECTIONS` unit vectors, spread evenly over the half sphere
    Q_q      the q-quantile, at `QUANTILES` even levels
    w        `PATTERN_WEIGHT`

SW is Rabin et al., "Wasserstein Barycenter and its Application to Texture Mixing" (2011), of order
one. The factor makes it a distance in CIELAB: two animals of one colour each are SW = dE apart, as
the mean of |d u| over the sphere is |d| / 2. No colour has to be called the coat for it, so a
blue animal with orange patches is near an orange one with as much blue.

w and `SAME` were chosen on PuppetBench's tuning split by truth alone, before any method was looked
at: drawn scenes in another action, and other animals of the same species in their place
(`measure_truth`, `masactrl puppets measure identity`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.puppets.colour import lab_distance, srgb_to_lab

if TYPE_CHECKING:
    from masactrl.puppets.inspector import Reading

__all__ = [
    "DIRECTIONS",
    "NAMED_WEIGHT",
    "NO_ANIMAL",
    "PATTERN_WEIGHT",
    "QUANTILES",
    "SAME",
    "Identity",
    "colour_distance",
    "colours_shown",
    "identity",
]

DIRECTIONS: Final = 48
QUANTILES: Final = 64
PATTERN_WEIGHT: Final = 10.0  # CIELAB units that another pattern counts for
SAME: Final = 12.0  # E up to which it is the same animal
NAMED_WEIGHT: Final = 25.0  # the same of the figure that was used before
NO_ANIMAL: Final = 100.0  # distance to a picture without an animal, CIELAB: black from white
_PIXELS: Final = 4096  # of an animal, evenly spread, are enough
_SHRINK: Final = 1  # pixels of 256 by which an outline is left out: it mixes with the background


@cache
def _directions() -> Tensor:
    """(`DIRECTIONS`, 3) unit vectors on the upper half sphere, by the golden angle (Fibonacci)."""
    k = torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5
    z = 1 - k / DIRECTIONS
    turn = k * math.pi * (3 - math.sqrt(5))
    r = (1 - z * z).sqrt()
    return torch.stack((r * turn.cos(), r * turn.sin(), z), 1).float()


def colours_shown(pictures: Tensor, masks: Tensor) -> Tensor:
    """The quantiles Q of the colours of each animal along every direction.

    Args:
        pictures: (n, 3, h, w) sRGB in [0, 1].
        masks: (n, 1, h, w) foreground in [0, 1]; above 0.5 a pixel counts.

    Returns:
        (n, directions, quantiles) CIELAB; not-a-number where a picture shows no animal.
    """
    lab = srgb_to_lab(pictures.float().movedim(1, -1))
    inside = (masks > 0.5).float()
    grow = 1 + 2 * max(1, round(_SHRINK * pictures.shape[-1] / 256))
    core = 1 - F.max_pool2d(1 - inside, grow, 1, grow // 2)
    levels = (torch.arange(QUANTILES, dtype=torch.float32) + 0.5) / QUANTILES
    shown = []
    for k in range(len(pictures)):
        kept = core[k, 0] > 0.5
        kept = kept if bool(kept.any()) else inside[k, 0] > 0.5
        colours = lab[k][kept]
        colours = colours[:: max(1, len(colours) // _PIXELS)]
        along = (colours @ _directions().T).sort(0).values  # pixels, directions
        if not len(along):
            shown.append(torch.full((DIRECTIONS, QUANTILES), math.nan))
            continue
        place = (levels * len(along)).long().clamp(max=len(along) - 1)
        shown.append(along[place].T)
    return torch.stack(shown)


def colour_distance(first: Tensor, second: Tensor) -> Tensor:
    """SW of the head of this file.

    Args:
        first, second: (n, directions, quantiles) of `colours_shown`.

    Returns:
        (n,) CIELAB; `NO_ANIMAL` where either picture shows none.
    """
    apart = 2 * (first - second).abs().mean((1, 2))
    return torch.where(apart.isnan(), torch.full_like(apart, NO_ANIMAL), apart)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How far n animals are from those that they should be.

    Attributes:
        colours: (n,) SW, CIELAB.
        pattern: (n,) 1 where the pattern is another one, else 0.
        coat, accent: (n,) CIELAB distance of what the inspector calls coat and accent.
    """

    colours: Tensor
    pattern: Tensor
    coat: Tensor
    accent: Tensor

    @property
    def error(self) -> Tensor:
        """(n,) E."""
        return self.colours + PATTERN_WEIGHT * self.pattern

    @property
    def named(self) -> Tensor:
        """(n,) the figure of earlier releases, (dE(coat) + dE(accent)) / 2 + 25 [pattern]."""
        return (self.coat + self.accent) / 2 + NAMED_WEIGHT * self.pattern


def identity(was: Reading, seen: Reading) -> Identity:
    """Compare what the inspector reads in n pictures with their n sources, or with one for all."""
    n = len(seen)
    before = was.pattern if len(was) == n else was.pattern * n
    differs = [a != b for a, b in zip(before, seen.pattern, strict=True)]
    return Identity(
        colours=colour_distance(was.shown, seen.shown),
        pattern=torch.tensor(differs, dtype=torch.float32, device="cpu"),
        coat=lab_distance(was.coat, seen.coat).expand(n),
        accent=lab_distance(was.accent, seen.accent).expand(n),
    )
