"""Inversions of flows on a velocity that is known in closed form: a mixture of two Gaussians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from masactrl.diffusion import NoiseSchedule, denoise, flow_schedule, flow_step
from masactrl.errors import ConfigError, UnsupportedPipeline
from masactrl.inversion import INVERSIONS, InversionTask, inversions_of
from masactrl.models.denoiser import Text

MEANS, SPREAD = (-1.0, 1.5), 0.5


class TwoGaussians:
    """v = E[eps - z_0 | z_s] for z_0 of a mixture of two Gaussians in every number."""

    device, reads_guidance = torch.device("cpu"), False

    def __init__(self) -> None:
        self.calls = 0

    def encode_text(self, prompts: list[str]) -> Text:
        return Text(hidden=torch.zeros(len(prompts), 1, 1))

    def predict(self, z: Tensor, timestep: float, text: Text, *, scale: Any = None) -> Tensor:
        del text, scale
        self.calls += 1
        s = timestep / 1000
        variance = ((1 - s) * SPREAD) ** 2 + s**2
        rests = torch.stack([z - (1 - s) * mean for mean in MEANS])
        shares = (-(rests**2) / (2 * variance)).softmax(0)
        means = torch.tensor(MEANS, dtype=z.dtype).view(2, 1, 1, 1, 1)
        z_0 = means + (1 - s) * SPREAD**2 / variance * rests
        return (shares * (s / variance * rests - z_0)).sum(0)


def levels(steps: int, *, shift: float = 3.0) -> NoiseSchedule:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    return flow_schedule(scheduler, steps, patches=16, listed=True)


def back_and_forth(name: str, steps: int) -> tuple[float, int]:
    """Largest error of a picture inverted and walked back, and evaluations of the way up."""
    denoiser = TwoGaussians()
    picture = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    task: Any = InversionTask(denoiser=denoiser, schedule=levels(steps), latents=picture)  # type: ignore[arg-type]
    trajectory = INVERSIONS[name]()(task)
    up = denoiser.calls
    free = denoise(task.source(), trajectory.start, trajectory.schedule, walk=trajectory.walk)
    path = trajectory.latents
    kept = denoise(task.source(), path[0], trajectory.schedule, walk=trajectory.walk, path=path)
    assert torch.equal(kept, picture)
    return float((free - picture).abs().max()), up


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("uni-inv", 2), ("rf-solver", 2)])
def test_the_picture_comes_back_within_the_rule_s_order(name: str, order: int) -> None:
    coarse, fine = (back_and_forth(name, steps)[0] for steps in (80, 160))
    assert 0 < fine < coarse < 0.2
    # The midpoint's steps up and down take back their largest errors: its order is 3 there.
    assert coarse / fine > 2 ** (order - 0.35)


def test_fireflow_is_better_than_euler_by_an_order_for_one_evaluation_more() -> None:
    coarse, fine = (back_and_forth("fireflow", steps)[0] for steps in (80, 160))
    assert coarse / fine > 2**1.5
    assert fine < back_and_forth("euler", 160)[0] / 5


@pytest.mark.parametrize("name", inversions_of("flow"))
def test_plans_count_the_evaluations(name: str) -> None:
    planned = INVERSIONS[name]().passes(12, 1)
    assert back_and_forth(name, 12)[1] <= planned
    if name not in ("direct", "fixed-point"):
        assert back_and_forth(name, 12)[1] == planned


def test_rf_solver_s_taylor_step_is_the_midpoint_s() -> None:
    schedule, v = levels(5), TwoGaussians()

    def velocity(z: Tensor, level: float) -> Tensor:
        return v.predict(z, schedule.timestep(level), Text(hidden=torch.zeros(1, 1, 1)))

    z = torch.randn(1, 4, 3, 3).double()
    h = schedule.sigma[2] - schedule.sigma[1]
    first = velocity(z, 1)
    derivative = (velocity(z + h / 2 * first, 1.5) - first) / (h / 2)
    wanted = z + h * first + h**2 / 2 * derivative
    assert torch.allclose(flow_step(velocity, z, 1, 2, schedule, "midpoint")[0], wanted)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_levels_and_steps_are_the_scheduler_s(*, listed: bool, dynamic: bool) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    schedule = flow_schedule(scheduler, 7, patches=1024, listed=listed)
    given: dict[str, Any] = {}
    if dynamic:
        given["mu"] = 0.5 + (1024 - 256) / (4096 - 256) * (1.15 - 0.5)
    if listed:
        given["sigmas"] = torch.linspace(1, 1 / 7, 7, dtype=torch.float64).tolist()
    scheduler.set_timesteps(7, **given)
    assert torch.allclose(torch.tensor(schedule.sigma), scheduler.sigmas, atol=1e-6)
    z, output = torch.randn(2, 1, 4, 5, 5)
    for step, timestep in enumerate(scheduler.timesteps):
        assert schedule.timestep(step) == pytest.approx(float(timestep), abs=1e-3)
        wanted = scheduler.step(output, timestep, z).prev_sample
        found = flow_step(lambda _z, _level: output, z, step, step + 1, schedule)[0]
        assert torch.allclose(found, wanted, atol=1e-6)


def test_a_flow_mixes_along_a_straight_line() -> None:
    schedule = levels(6)
    z_0, eps = torch.randn(2, 1, 4, 3, 3).double()
    for level in range(6):
        signal, noise = schedule.pair(level)
        assert signal + noise == 1
        z = schedule.noised(z_0, eps, level)
        assert torch.allclose(schedule.noise_in(eps - z_0, z, level), eps)
        assert torch.allclose(schedule.noise_between(z, z_0, level), eps)
    assert schedule.rest(2).sigma == schedule.sigma[2:]


def test_what_a_flow_cannot_be_walked_by_is_refused() -> None:
    z = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ConfigError, match="walked by euler, midpoint, fireflow"):
        denoise(lambda z, _: z, z, levels(3), walk="ddpm")
    with pytest.raises(ConfigError, match="sigma"):
        NoiseSchedule(timesteps=(1.0,), alpha_bar=(0.5, 1.0), prediction="flow")
    with pytest.raises(UnsupportedPipeline, match="stochastic_sampling=False"):
        flow_schedule(
            FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 3, patches=4, listed=False
        )
