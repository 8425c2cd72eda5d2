"""Direct Inversion (Ju et al., arXiv 2310.01506): DDIM inversion, and the source put back.

Every step down adds to the source what it has drifted from its inversion; that puts it back on the
trajectory, so it is the same as writing the stored latent in its place, as the official code's
`ref_intermediate_latents` does. The source comes back exactly, whatever the inversion missed, and
targets read the features of the true picture. The default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from masactrl.diffusion import NoiseKind
from masactrl.inversion.ddim import DDIM

__all__ = ["Direct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct(DDIM):
    """DDIM inversion, of flows Uni-Inv, with replay."""

    name: ClassVar[str] = "direct"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("diffusion", "flow")
    replay: ClassVar[bool] = True

    visits: ClassVar[Literal["near"]] = "near"
    """Where the network is asked: one level off; at levels reached by adding noise, at them."""

    def passes(self, steps: int, branches: int) -> int:
        """One row per step and branch."""
        return steps * branches
