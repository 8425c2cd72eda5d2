r"""SDEdit (Meng et al., ICLR 2022): noise the source part of the way, denoise with another prompt.

    n    = int(s N)                                      steps that are run, the last n of N
    z_t  = sqrt(a_t) z_0^s + sqrt(1 - a_t) eps           at the first of them; of a flow
         = (1 - s_t) z_0^s + s_t eps
    z_{t-1} = Sample(z_t, eps_theta(z_t, P))             from there on, no control

    s      strength in (0, 1]: 1 keeps (almost) nothing of the source, small values nearly all
    a_t    alpha-bar, the share of signal variance at timestep t
    z_0^s  the source's clean latents;  eps  standard normal noise

It is a start and not an attachment: `attach` leaves the pipeline alone, `start` says the rest.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from masactrl.errors import ConfigError, ScheduleError
from masactrl.methods.fixed_seed import FixedSeed
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["NoisedSource", "SDEdit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisedSource:
    """Targets begin as the source with noise on it; see the equations of this file."""

    strength: float

    def first_step(self, steps: int) -> int:
        """N - int(s N); `ScheduleError` when no step would be left."""
        # The small slack keeps 0.29 * 100 at 29 whatever the last binary digit.
        run = min(int(steps * self.strength + 1e-9), steps)
        if run < 1:
            raise ScheduleError(
                f"A strength of {self.strength} leaves none of {steps} steps; use more steps or a "
                f"strength of at least {1 / steps:.3f}."
            )
        return steps - run

    def latents(self, z_0: Tensor, noise: Tensor, levels: tuple[float, float]) -> Tensor:
        """The mixture of `z_0` and noise, all (n, c, h, w)."""
        signal, share = levels
        return signal * z_0 + share * noise


@dataclass(frozen=True, slots=True, kw_only=True)
class SDEdit:
    """SDEdit at one `strength` in (0, 1]; raises `ConfigError` outside that range."""

    strength: float = 0.6
    name: ClassVar[str] = "sdedit"

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.strength <= 1.0:
            raise ConfigError(f"strength={self.strength} was given; SDEdit accepts above 0 to 1.")

    @property
    def start(self) -> NoisedSource:
        """Targets start from their noised source."""
        return NoisedSource(strength=self.strength)

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Attached]:
        """No control: see `start`."""
        return FixedSeed().attach(pipeline, rows, prompts=prompts)
