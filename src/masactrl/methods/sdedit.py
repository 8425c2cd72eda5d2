r"""SDEdit (Meng et al., ICLR 2022): noise the source part of the way, denoise with another prompt.

    n    = int(s N)                                      steps that are run, the last n of N
    z_t  = sqrt(a_t) z_0^s + sqrt(1 - a_t) eps           at the first of them
    z_{t-1} = Sample(z_t, eps_theta(z_t, P))             from there on, no control

    s      strength in (0, 1]: 1 keeps (almost) nothing of the source, small values nearly all
    a_t    alpha-bar, the share of signal variance at timestep t
    z_0^s  the source's clean latents;  eps  standard normal noise

It is a start and not an attachment: `attach` leaves the pipeline alone, `start` says the rest.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.checks import settle
from masactrl.errors import ConfigError, ScheduleError, UnsupportedPipeline
from masactrl.methods.fixed_seed import FixedSeed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows
    from masactrl.methods.method import Start

__all__ = ["NoisedSource", "SDEdit", "late_start", "noised_start"]


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

    def latents(self, z_0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """sqrt(a_t) z_0 + sqrt(1 - a_t) eps, all (n, c, h, w)."""
        a_t = torch.as_tensor(alpha_bar, dtype=torch.float64)
        return float(a_t.sqrt()) * z_0 + float((1 - a_t).sqrt()) * noise


@dataclass(frozen=True, slots=True, kw_only=True)
class SDEdit:
    """SDEdit at one `strength` in (0, 1]; raises `ConfigError` outside that range."""

    strength: float = 0.6

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.strength <= 1.0:
            raise ConfigError(f"strength={self.strength} was given; SDEdit accepts above 0 to 1.")

    @property
    def name(self) -> str:
        """Its name among the methods."""
        return "sdedit"

    @property
    def start(self) -> NoisedSource:
        """Targets start from their noised source."""
        return NoisedSource(strength=self.strength)

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Attached]:
        """No control: see `start`."""
        return FixedSeed().attach(pipeline, rows, prompts=prompts)


def noised_start(
    pipeline: DiffusionPipeline, start: Start, z_0: Tensor, noise: Tensor, steps: int
) -> tuple[int, Tensor]:
    """The step at which targets begin, and their latents (n, c, h, w) there.

    `z_0` are the source's clean latents, `noise` is standard normal. Raises `UnsupportedPipeline`
    for schedulers whose latents are scaled in another way than the equations of this file say.
    """
    scheduler: Any = pipeline.scheduler
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or float(scheduler.init_noise_sigma) != 1.0:
        raise UnsupportedPipeline(
            f"SDEdit needs a scheduler whose latents keep their variance, such as DDIM, and the "
            f"pipeline has {type(scheduler).__name__}. Use DDIMScheduler."
        )
    first = start.first_step(steps)
    scheduler.set_timesteps(steps)
    t = int(scheduler.timesteps[first])
    return first, start.latents(z_0, noise, alphas[t]).to(z_0.dtype)


@contextmanager
def late_start(pipeline: DiffusionPipeline, first: int) -> Iterator[None]:
    """Leave out the first steps of every run inside the `with` block.

    The scheduler's `set_timesteps` is wrapped, and put back also after an exception.
    """
    scheduler: Any = pipeline.scheduler
    inner = scheduler.set_timesteps
    own = vars(scheduler).get("set_timesteps")

    @functools.wraps(inner)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        scheduler.timesteps = scheduler.timesteps[first * scheduler.order :]

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        if own is None:
            del scheduler.set_timesteps
        else:
            scheduler.set_timesteps = own
