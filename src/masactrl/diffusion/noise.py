r"""Noise levels: how much of a latent is picture and how much is noise, at every step of a run.

    z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps          a_t = alpha_bar_t, product of (1 - beta)

    epsilon   the network says eps
    v         the network says  v = sqrt(a_t) eps - sqrt(1 - a_t) z_0
    sample    the network says z_0

Everything here is float64 on the CPU; it becomes a factor of a tensor only where it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from masactrl.errors import ConfigError, UnsupportedPipeline

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NoiseSchedule", "Prediction", "Spacing", "timestep_grid"]

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a network says about a noisy latent; the names are those of diffusers."""

Spacing = Literal["leading", "trailing", "linspace"]
"""How N timesteps are chosen among those of the training (arXiv 2305.08891, Table 2)."""


_NO_PICTURE: Final = 1e-9  # alpha_bar below which z_0 cannot be told from z and eps


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """The noise levels of one run of N steps, noisiest first.

    Step i starts at level i and ends at level i + 1; level N is the picture.

    Attributes:
        timesteps: N training timesteps, falling, each the argument of the network at its step.
        alpha_bar: N + 1 levels in [0, 1], rising.
        prediction: what the network says.

    Raises:
        ConfigError: the numbers do not make a run.
    """

    timesteps: tuple[int, ...]
    alpha_bar: tuple[float, ...]
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        object.__setattr__(self, "timesteps", tuple(int(t) for t in self.timesteps))
        object.__setattr__(self, "alpha_bar", tuple(float(a) for a in self.alpha_bar))
        if not self.timesteps or len(self.alpha_bar) != len(self.timesteps) + 1:
            raise ConfigError(
                f"A run has one noise level more than it has steps; {len(self.timesteps)} "
                f"timesteps and {len(self.alpha_bar)} levels were given."
            )
        if not all(0 <= a <= 1 for a in self.alpha_bar):
            raise ConfigError("alpha_bar is a product of values in [0, 1] and cannot leave it.")
        if self.prediction not in get_args(Prediction):
            raise ConfigError(
                f"prediction={self.prediction!r} was given; accepted are "
                f"{', '.join(get_args(Prediction))}."
            )

    @classmethod
    def from_scheduler(
        cls, scheduler: Any, steps: int, *, spacing: Spacing | None = None
    ) -> NoiseSchedule:
        """Read a scheduler of diffusers that has an `alphas_cumprod`, as DDIM does.

        The timesteps are those of `DDIMScheduler.set_timesteps(steps)`.

        Args:
            scheduler: is read, not changed.
            steps: N, 1 to the number of training timesteps.
            spacing: None is the scheduler's own.

        Raises:
            ConfigError: the scheduler has no room for so many steps.
            UnsupportedPipeline: the scheduler clips latents, which cannot be undone, or begins at
                a level without any picture.
        """
        config = scheduler.config
        for clip in ("clip_sample", "thresholding"):
            if config.get(clip, False):
                raise UnsupportedPipeline(
                    f"The scheduler has {clip} on, which cuts latents off and cannot be inverted; "
                    f"make it with {clip}=False."
                )
        levels = scheduler.alphas_cumprod.double()
        last = getattr(scheduler, "final_alpha_cumprod", levels[0])
        timesteps = timestep_grid(
            steps,
            trained=len(levels),
            spacing=spacing or config.get("timestep_spacing", "leading"),
            offset=config.get("steps_offset", 0),
        )
        if levels[timesteps[0]] < _NO_PICTURE:
            raise UnsupportedPipeline(
                f"The scheduler's noisiest level (timestep {timesteps[0]}) holds nothing of the "
                "picture (zero terminal SNR), so that no way leads down from it by the noise "
                'alone; edit with timestep_spacing="leading" and fewer steps, or without '
                "rescale_betas_zero_snr."
            )
        return cls(
            timesteps=timesteps,
            alpha_bar=(*(float(levels[t]) for t in timesteps), float(last)),
            prediction=config.get("prediction_type", "epsilon"),
        )

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return len(self.timesteps)

    def noise_in(self, output: Tensor, z: Tensor, level: int) -> Tensor:
        """Return eps, what the network's output (any shape) says about the noise in `z`.

        Args:
            output: of the network, of the shape of `z`.
            z: the latents that it was given.
            level: the noise level that it was told, 0 to N - 1.
        """
        a = self.alpha_bar[level]
        if self.prediction == "epsilon":
            return output
        if self.prediction == "v_prediction":
            return math.sqrt(a) * output + math.sqrt(1 - a) * z
        return (z - math.sqrt(a) * output) / math.sqrt(1 - a)

    def noised(self, z_0: Tensor, eps: Tensor, level: int) -> Tensor:
        """Return z at a level, the mixture of picture `z_0` and noise `eps` of equal shape."""
        a = self.alpha_bar[level]
        return math.sqrt(a) * z_0 + math.sqrt(1 - a) * eps

    def noise_between(self, z: Tensor, z_0: Tensor, level: int) -> Tensor:
        """Return eps with `z = noised(z_0, eps, level)`; zero where the level holds no noise."""
        a = self.alpha_bar[level]
        rest = z - math.sqrt(a) * z_0
        return rest / math.sqrt(1 - a) if a < 1 else rest * 0


def timestep_grid(steps: int, *, trained: int, spacing: str, offset: int) -> tuple[int, ...]:
    """Return N training timesteps, falling, as `DDIMScheduler` chooses them.

    Args:
        steps: N, at least 1.
        trained: how many timesteps the training had, numbered from 0.
        spacing: see `Spacing`.
        offset: added to every timestep, with "leading" only.

    Raises:
        ConfigError: so many steps do not fit, or the spacing is unknown.
    """
    if not 1 <= steps <= trained:
        raise ConfigError(f"steps={steps} was given; accepted is 1 to {trained}.")
    if spacing == "leading":
        grid = [step * (trained // steps) + offset for step in reversed(range(steps))]
    elif spacing == "trailing":
        # round() and numpy agree on halves: both go to the even neighbour. diffusers' own list has
        # one timestep more, -1, for numbers of steps like 61 whose gap is rounded down.
        grid = [round(trained - step * (trained / steps)) - 1 for step in range(steps)]
    elif spacing == "linspace":
        gap = (trained - 1) / (steps - 1) if steps > 1 else 0.0
        grid = [round(step * gap) for step in reversed(range(steps))]
    else:
        raise ConfigError(
            f"timestep spacing {spacing!r} was given; accepted are {', '.join(get_args(Spacing))}."
        )
    if grid[0] >= trained:
        raise ConfigError(
            f"{steps} steps with an offset of {offset} reach timestep {grid[0]}, but the model was "
            f"trained on 0 to {trained - 1}; ask for fewer steps."
        )
    return tuple(grid)
