r"""Noise levels: how much of a latent is picture and how much is noise, at every step of a run.

    z_t = signal z_0 + noise eps

    diffusion   signal = sqrt(a_t), noise = sqrt(1 - a_t)    a_t = alpha_bar_t, product of 1 - beta
        epsilon   the network says eps
        v         the network says  v = sqrt(a_t) eps - sqrt(1 - a_t) z_0
        sample    the network says z_0
    flow        signal = 1 - s_t, noise = s_t                 SD3, FLUX: a straight line
        flow      the network says  v = dz/ds = eps - z_0

Everything here is float64 on the CPU; it becomes a factor of a tensor only where it is used.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch

from masactrl.errors import ConfigError, UnsupportedPipeline

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "NoiseKind",
    "NoiseSchedule",
    "Prediction",
    "Spacing",
    "flow_schedule",
    "freshened",
    "noise_like",
    "timestep_grid",
]

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a network says about a noisy latent; the first three names are those of diffusers."""

NoiseKind = Literal["diffusion", "flow"]
"""How picture and noise are mixed; see the head of this file."""

Spacing = Literal["leading", "trailing", "linspace"]
"""How N timesteps are chosen among those of the training (arXiv 2305.08891, Table 2)."""


_NO_PICTURE: Final = 1e-9  # alpha_bar below which z_0 cannot be told from z and eps


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """The noise levels of one run of N steps, noisiest first.

    Step i starts at level i and ends at level i + 1; level N is the picture.

    Attributes:
        timesteps: N timesteps, falling, each the argument of the network at its step: whole ones of
            the training, or with "flow" 1000 s.
        alpha_bar: N + 1 levels in [0, 1], rising; none with "flow".
        prediction: what the network says.
        sigma: N + 1 levels s in [0, 1], falling, with "flow"; else none.

    Raises:
        ConfigError: the numbers do not make a run.
    """

    timesteps: tuple[float, ...]
    alpha_bar: tuple[float, ...] = ()
    prediction: Prediction = "epsilon"
    sigma: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ConfigError(
                f"prediction={self.prediction!r} was given; accepted are "
                f"{', '.join(get_args(Prediction))}."
            )
        number = float if self.kind == "flow" else int
        object.__setattr__(self, "timesteps", tuple(number(t) for t in self.timesteps))
        for name in ("alpha_bar", "sigma"):
            object.__setattr__(self, name, tuple(float(a) for a in getattr(self, name)))
        levels, other = self.alpha_bar, self.sigma
        if self.kind == "flow":
            levels, other = other, levels
        if other:
            raise ConfigError("A run has levels alpha_bar or, with prediction='flow', sigma.")
        if not self.timesteps or len(levels) != len(self.timesteps) + 1:
            raise ConfigError(
                f"A run has one noise level more than it has steps; {len(self.timesteps)} "
                f"timesteps and {len(levels)} levels were given."
            )
        if not all(0 <= a <= 1 for a in levels):
            raise ConfigError("alpha_bar and sigma are shares in [0, 1] and cannot leave it.")

    @property
    def kind(self) -> NoiseKind:
        """How picture and noise are mixed."""
        return "flow" if self.prediction == "flow" else "diffusion"

    def pair(self, level: int) -> tuple[float, float]:
        """Return the shares of picture and noise at a level, 0 to N."""
        if self.kind == "flow":
            return 1 - self.sigma[level], self.sigma[level]
        a = self.alpha_bar[level]
        return math.sqrt(a), math.sqrt(1 - a)

    def timestep(self, level: float) -> float:
        """Return the argument of the network at a level, 0 to N - 1.

        With "flow" also at N and in between, 2.5 being the middle of two: there timesteps are in
        proportion to s.
        """
        if self.kind == "diffusion":
            return self.timesteps[int(level)]
        listed, below = (*self.timesteps, 0.0), int(level)
        rest = level - below
        return listed[below] if rest == 0 else (1 - rest) * listed[below] + rest * listed[below + 1]

    def rest(self, first: int) -> NoiseSchedule:
        """Return the schedule of the run from a step on."""
        return replace(
            self,
            timesteps=self.timesteps[first:],
            alpha_bar=self.alpha_bar[first:],
            sigma=self.sigma[first:],
        )

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        steps: int,
        *,
        spacing: Spacing | None = None,
        timesteps: tuple[int, ...] | None = None,
    ) -> NoiseSchedule:
        """Read a scheduler of diffusers that has an `alphas_cumprod`, as DDIM does.

        The timesteps are those of `DDIMScheduler.set_timesteps(steps)`.

        Args:
            scheduler: is read, not changed.
            steps: N, 1 to the number of training timesteps.
            spacing: None is the scheduler's own.
            timesteps: N of them, where they are none of DDIM's.

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
        timesteps = timesteps or timestep_grid(
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
        signal, noise = self.pair(level)
        if self.prediction == "epsilon":
            return output
        if self.prediction == "v_prediction":
            return signal * output + noise * z
        if self.prediction == "flow":
            return z + signal * output
        return (z - signal * output) / noise

    def noised(self, z_0: Tensor, eps: Tensor, level: int) -> Tensor:
        """Return z at a level, the mixture of picture `z_0` and noise `eps` of equal shape."""
        signal, noise = self.pair(level)
        return signal * z_0 + noise * eps

    def noise_between(self, z: Tensor, z_0: Tensor, level: int) -> Tensor:
        """Return eps with `z = noised(z_0, eps, level)`; zero where the level holds no noise."""
        signal, noise = self.pair(level)
        rest = z - signal * z_0
        return rest / noise if noise > 0 else rest * 0


def flow_schedule(scheduler: Any, steps: int, *, patches: int, listed: bool) -> NoiseSchedule:
    """Return the levels at which SD3's and FLUX's pipelines run a flow scheduler of diffusers.

    Args:
        scheduler: is read, not changed.
        steps: N, at least 1.
        patches: of the picture; a scheduler with dynamic shifting stays longer in noise for more.
        listed: whether the pipeline gives the levels before the shift itself, 1 to 1 / N (FLUX), or
            leaves them to the scheduler (SD3).

    Raises:
        UnsupportedPipeline: it is no such scheduler, or draws noise at every step.
    """
    config = scheduler.config
    if not hasattr(scheduler, "sigmas") or "shift" not in config:
        raise UnsupportedPipeline(
            f"SD3 and FLUX are inverted along the straight flow that they were trained on, and the "
            f"pipeline has a {type(scheduler).__name__}; give it a FlowMatchEulerDiscreteScheduler."
        )
    if config.get("stochastic_sampling", False):
        raise UnsupportedPipeline(
            "The scheduler draws noise at every step (stochastic_sampling), which no inversion "
            "finds again; make it with stochastic_sampling=False."
        )
    own = copy.deepcopy(scheduler)
    given: dict[str, Any] = {}
    if listed and not config.get("use_flow_sigmas", False):
        given["sigmas"] = [1 - (1 - 1 / steps) * k / max(steps - 1, 1) for k in range(steps)]
    if config.get("use_dynamic_shifting", False):
        given["mu"] = _shift(config, patches)
    own.set_timesteps(steps, device="cpu", **given)
    return NoiseSchedule(
        timesteps=tuple(own.timesteps.tolist()),
        prediction="flow",
        sigma=tuple(own.sigmas.tolist()),
    )


def _shift(config: Any, patches: int) -> float:
    """The exponent of dynamic shifting, linear in the number of patches."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(low + (high - low) * (patches - few) / (many - few))


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


def noise_like(z: Tensor, seed: int, *, count: int | None = None) -> Tensor:
    """Return noise of a latent's shape, device and type, of so many of them in a row.

    Drawn in float32 on the CPU, so that a seed means the same on every device.
    """
    shape = z.shape if count is None else (count, *z.shape)
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(z)


def freshened(z: Tensor, eps: Tensor, share: float) -> Tensor:
    """Return start noise of which a share is new: sqrt(1 - share) z + sqrt(share) eps.

    What inversion finds is not quite noise: it holds on to the layout of the picture, and targets
    that start from it keep more of the pose than their prompt wants. The subject does not come from
    there but from the source's features, so some of it can go.

    Args:
        z: latents of the noisiest level.
        eps: unit normal noise of their shape.
        share: of the variance, 0 to 1.

    Returns:
        latents of their shape, of unit variance where z has that.
    """
    return math.sqrt(1 - share) * z + math.sqrt(share) * eps
