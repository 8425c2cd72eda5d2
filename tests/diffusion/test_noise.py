"""Noise levels against diffusers' own scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from masactrl.diffusion import NoiseSchedule, spread, step_down, step_up
from masactrl.errors import ConfigError, UnsupportedPipeline

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


def ddim(**options: object) -> DDIMScheduler:
    return DDIMScheduler(**{**STABLE_DIFFUSION, "set_alpha_to_one": False, **options})


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_are_those_of_the_scheduler(spacing: str, offset: int) -> None:
    scheduler = ddim(timestep_spacing=spacing, steps_offset=offset)
    for steps in (1, 2, 3, 4, 7, 12, 20, 33, 50, 64, 100, 333, 999):
        scheduler.set_timesteps(steps)
        wanted = tuple(scheduler.timesteps.tolist())
        assert NoiseSchedule.from_scheduler(scheduler, steps).timesteps == wanted, steps


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_down_is_the_scheduler_s(prediction: str, offset: int, one: bool) -> None:
    scheduler = ddim(steps_offset=offset, set_alpha_to_one=one, prediction_type=prediction)
    scheduler.set_timesteps(10)
    schedule = NoiseSchedule.from_scheduler(scheduler, 10)
    generator = torch.Generator().manual_seed(0)
    z, output = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    for step, timestep in enumerate(schedule.timesteps):
        wanted = scheduler.step(output, timestep, z).prev_sample
        eps = schedule.noise_in(output, z, step)
        found = step_down(z, eps, *schedule.alpha_bar[step : step + 2])
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5), step


def test_a_stochastic_step_is_the_scheduler_s() -> None:
    scheduler = ddim(steps_offset=1)
    scheduler.set_timesteps(10)
    schedule = NoiseSchedule.from_scheduler(scheduler, 10)
    z, eps, w = torch.randn(3, 1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    for step, timestep in enumerate(schedule.timesteps):
        wanted = scheduler.step(eps, timestep, z, eta=1.0, variance_noise=w).prev_sample
        found = step_down(z, eps, *schedule.alpha_bar[step : step + 2], walk="ddpm", w=w)
        assert torch.allclose(found, wanted, atol=1e-5)


def test_up_undoes_down() -> None:
    z, eps = torch.randn(2, 1, 4, 5, 5, dtype=torch.float64)
    for a, a_next in ((0.01, 0.3), (0.5, 0.9), (0.9, 0.9991), (0.9991, 1.0)):
        assert torch.allclose(step_up(step_down(z, eps, a, a_next), eps, a_next, a), z)


def test_fresh_noise_only_where_the_walk_says() -> None:
    assert spread("ddim", 0.3, 0.5) == 0
    assert spread("ddpm", 0.3, 1.0) == 0
    assert 0 < spread("ddpm", 0.3, 0.5) < spread("consistency", 0.3, 0.5) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("clip", ["clip_sample", "thresholding"])
def test_clipping_is_refused(clip: str) -> None:
    with pytest.raises(UnsupportedPipeline, match=clip):
        NoiseSchedule.from_scheduler(ddim(**{clip: True}), 10)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_that_do_not_fit(steps: int) -> None:
    with pytest.raises(ConfigError, match="accepted is 1 to 1000"):
        NoiseSchedule.from_scheduler(ddim(), steps)


def test_an_offset_past_the_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="ask for fewer steps"):
        NoiseSchedule.from_scheduler(ddim(steps_offset=1), 1000)


@pytest.mark.parametrize(
    "change",
    [{"alpha_bar": (0.5,)}, {"alpha_bar": (0.5, 1.1)}, {"prediction": "score"}, {"timesteps": ()}],
)
def test_a_schedule_checks_itself(change: dict[str, object]) -> None:
    good = {"timesteps": (500,), "alpha_bar": (0.5, 1.0)}
    NoiseSchedule(**good)
    with pytest.raises(ConfigError):
        NoiseSchedule(**{**good, **change})
