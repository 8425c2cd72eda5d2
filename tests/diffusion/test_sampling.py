"""The loop and the inversions on a denoiser whose answer is known.

Pictures are normally distributed, x ~ N(mu, s^2): then the best prediction of the noise in z is
    eps(z) = sqrt(1 - a) (z - sqrt(a) mu) / (a s^2 + 1 - a)
and the exact way from picture to noise keeps (z - sqrt(a) mu) / sqrt(a s^2 + 1 - a) as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from masactrl.diffusion import NoiseSchedule, Prediction, Trajectory, denoise
from masactrl.errors import ConfigError
from masactrl.inversion import (
    DDIM,
    Direct,
    EditFriendly,
    FixedPoint,
    InversionTask,
    OnePass,
    Virtual,
)

MU, S = 0.7, 0.6


def schedule_of(steps: int, prediction: Prediction = "epsilon") -> NoiseSchedule:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    return NoiseSchedule.from_scheduler(scheduler, steps)


@dataclass
class Gaussian:
    """Stands where a guided network stands."""

    schedule: NoiseSchedule

    def __call__(self, z: Tensor, step: int) -> Tensor:
        a = self.schedule.alpha_bar[step]
        eps = math.sqrt(1 - a) * (z - math.sqrt(a) * MU) / (a * S**2 + 1 - a)
        z_0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
        said = {
            "epsilon": eps,
            "sample": z_0,
            "v_prediction": math.sqrt(a) * eps - math.sqrt(1 - a) * z_0,
        }
        return said[self.schedule.prediction]


class Task(InversionTask):
    """An inversion task whose network is the closed form."""

    def source(self, *_: Any, **__: Any) -> Any:
        return Gaussian(self.schedule)


def picture() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return MU + S * torch.randn(1, 4, 6, 5, generator=generator, dtype=torch.float64)


def there_and_back(
    method: Any, steps: int, prediction: Prediction = "epsilon", last: float | None = None
) -> float:
    schedule = schedule_of(steps, prediction)
    if last is not None:
        schedule = replace(schedule, alpha_bar=(*schedule.alpha_bar[:-1], last))
    task = Task(denoiser=None, schedule=schedule, latents=picture(), seed=5)  # type: ignore[arg-type]
    found = method(task)
    back = denoise(
        Gaussian(schedule),
        found.latents[0],
        schedule,
        walk=found.walk,
        noise=found.noise,
        path=found.latents if found.replay else None,
    )
    return float((back - picture()).abs().max())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_comes_back_better_with_more_steps(prediction: Prediction) -> None:
    few, many = (there_and_back(DDIM(), steps, prediction) for steps in (20, 200))
    assert few < 0.5
    assert many < few / 4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_fixed_point_solves_every_step(prediction: Prediction) -> None:
    plain = there_and_back(DDIM(), 50, prediction)
    solved = there_and_back(FixedPoint(iterations=30, tolerance=0), 50, prediction)
    assert solved < plain / 20
    assert there_and_back(FixedPoint(iterations=1), 50, prediction) == pytest.approx(plain)


@pytest.mark.parametrize(
    "method", [Direct(), Direct(fresh_steps=7), OnePass(), EditFriendly(), Virtual()]
)
def test_what_is_replayed_comes_back_exactly(method: Any) -> None:
    assert there_and_back(method, 20) < 1e-5


def test_edit_friendly_comes_back_where_the_last_level_holds_no_noise() -> None:
    assert there_and_back(EditFriendly(), 4, last=1.0) < 1e-5


def test_a_shift_leaves_some_noise() -> None:
    schedule = schedule_of(4)
    task = Task(denoiser=None, schedule=schedule, latents=picture())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"begins at timestep 751.*accepted is 0 to 750"):
        EditFriendly(noise_shift=751)(task)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_one_pass_is_nearer_to_the_solved_noise_than_ddim(prediction: Prediction) -> None:
    schedule = schedule_of(20, prediction)
    task = Task(denoiser=None, schedule=schedule, latents=picture())  # type: ignore[arg-type]
    solved, once, plain = (
        method(task).latents
        for method in (FixedPoint(iterations=30, tolerance=0), OnePass(), DDIM())
    )
    assert torch.equal(once[-1].double(), picture().to(once).double())
    assert (once[0] - solved[0]).abs().max() < (plain[0] - solved[0]).abs().max() / 3
    assert OnePass().passes(20, 2) == 42


def test_the_noise_of_the_closed_form_is_found() -> None:
    schedule = schedule_of(200)
    task = Task(denoiser=None, schedule=schedule, latents=picture())  # type: ignore[arg-type]
    found = FixedPoint(iterations=30)(task).latents[0].double()
    a, a_0 = schedule.alpha_bar[0], schedule.alpha_bar[-1]

    def standard(z: Tensor, a: float) -> Tensor:
        return (z - math.sqrt(a) * MU) / math.sqrt(a * S**2 + 1 - a)

    assert torch.allclose(standard(found, a), standard(picture(), a_0), atol=0.05)


def test_the_path_holds_row_0_at_every_level() -> None:
    schedule = schedule_of(5)
    path = torch.randn(6, 1, 4, 6, 5)
    seen: list[Tensor] = []

    def predict(z: Tensor, step: int) -> Tensor:
        seen.append(z[:1])
        return Gaussian(schedule)(z, step)

    told: list[tuple[int, int]] = []
    start = torch.randn(3, 4, 6, 5)
    final = denoise(predict, start, schedule, path=path, on_step=lambda *said: told.append(said))
    assert torch.equal(torch.stack(seen), path[:-1])
    assert torch.equal(final[:1], path[-1])
    free = denoise(Gaussian(schedule), start[1:], schedule)
    assert torch.allclose(final[1:], free)
    assert told == list(enumerate(schedule.timesteps))


def test_fresh_steps_must_leave_some() -> None:
    task = Task(denoiser=None, schedule=schedule_of(5), latents=picture())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="accepted is 0 to 4"):
        DDIM(fresh_steps=5)(task)


def test_a_trajectory_keeps_its_parts() -> None:
    schedule = schedule_of(3)
    task = Task(denoiser=None, schedule=schedule, latents=picture(), seed=9)  # type: ignore[arg-type]
    made = EditFriendly()(task)
    again = Trajectory.from_parts(made.recipe(), made.tensors())
    assert again.recipe() == made.recipe()
    assert again.schedule == schedule
    assert all(torch.equal(again.tensors()[name], one) for name, one in made.tensors().items())
    assert made.nbytes == sum(one.nbytes for one in made.tensors().values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"latents": torch.zeros(3, 1, 4, 2, 2)}, "latents of shape"),
        ({"latents": torch.full((4, 1, 4, 2, 2), math.nan)}, "NaN or infinite"),
        ({"noise": torch.zeros(4, 1, 4, 2, 2)}, "noise of a trajectory"),
        ({"unconditional": torch.zeros(2, 77, 8)}, "Unconditional embeddings"),
    ],
)
def test_a_trajectory_checks_itself(change: dict[str, Tensor], sentence: str) -> None:
    good = {
        "latents": torch.zeros(4, 1, 4, 2, 2),
        "schedule": schedule_of(3),
        "method": "direct",
    }
    Trajectory(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=sentence):
        Trajectory(**{**good, **change})  # type: ignore[arg-type]
