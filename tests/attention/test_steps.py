from __future__ import annotations

import diffusers
import pytest
import torch

from masactrl.attention import StepTracker
from masactrl.errors import ScheduleError

# Several of diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "LCMScheduler": {},
}


def make(name: str, count: int = 4) -> object:
    scheduler = getattr(diffusers, name)(**BETAS, **SCHEDULERS[name])
    scheduler.set_timesteps(count)
    return scheduler


def walk(
    tracker: StepTracker, scheduler: object, first: int = 0, last: int | None = None
) -> list[int]:
    table = scheduler.timesteps[first:last]  # type: ignore[attr-defined]
    return [tracker.step_of(t, scheduler).step for t in table]


@pytest.mark.parametrize("count", [4, 7])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_counts_its_steps(name: str, count: int) -> None:
    scheduler = make(name, count)
    tracker = StepTracker()
    seen = walk(tracker, scheduler)
    info = tracker.step_of(scheduler.timesteps[-1], scheduler)  # type: ignore[attr-defined]
    assert seen[0] == 0
    assert sorted(set(seen)) == list(range(count))
    assert seen == sorted(seen)
    assert len(info.timesteps) == count
    assert info.last


def test_repeated_timesteps_are_one_step() -> None:
    assert walk(StepTracker(), make("PNDMScheduler")) == [0, 1, 1, 2, 3]
    assert walk(StepTracker(), make("HeunDiscreteScheduler")) == [0, 1, 1, 2, 2, 3, 3]


def test_in_between_timesteps_belong_to_their_step() -> None:
    assert walk(StepTracker(), make("KDPM2DiscreteScheduler")) == [0, 0, 1, 1, 2, 2, 3]


def test_in_between_timesteps_out_of_order_are_no_new_run() -> None:
    """The ancestral KDPM2 evaluates at timesteps that lie outside of their step."""
    scheduler, tracker = make("KDPM2AncestralDiscreteScheduler", 10), StepTracker()
    table = scheduler.timesteps.tolist()  # type: ignore[attr-defined]
    assert table != sorted(table, reverse=True)
    ticks = [tracker.step_of(t, scheduler) for t in table]
    steps = [info.step for info in ticks]
    assert steps == sorted(steps)
    assert set(steps) == set(range(10))
    assert [info.new_run for info in ticks] == [True, *[False] * 18]


def test_steps_that_share_a_rounded_timestep() -> None:
    """Karras' levels end in several equal timesteps; the scheduler knows which one it is at."""
    scheduler, tracker = (
        diffusers.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True),
        StepTracker(),
    )
    scheduler.set_timesteps(50)
    assert len(set(scheduler.timesteps.tolist())) < 50
    ticks, sample = [], torch.zeros(1, 1, 1, 1)
    for timestep in scheduler.timesteps:
        ticks += [tracker.step_of(timestep, scheduler) for _ in range(2)]
        scheduler.step(sample, timestep, sample)
    assert [info.step for info in ticks[::2]] == [info.step for info in ticks[1::2]]
    assert [info.step for info in ticks[::2]] == list(range(50))
    assert len(ticks[-1].timesteps) == 50
    assert ticks[-1].last


def test_an_opening_of_four_evaluations_a_step() -> None:
    """PNDM without skip_prk_steps: three Runge-Kutta steps, then one evaluation a step."""
    scheduler, tracker = diffusers.PNDMScheduler(**BETAS), StepTracker()
    scheduler.set_timesteps(6)
    seen = walk(tracker, scheduler)
    assert seen == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5]
    assert len(tracker.step_of(scheduler.timesteps[-1], scheduler).timesteps) == 6


def test_two_calls_per_step() -> None:
    scheduler, tracker = make("DDIMScheduler"), StepTracker()
    table = scheduler.timesteps  # type: ignore[attr-defined]
    assert [tracker.step_of(t, scheduler).step for t in table.repeat_interleave(2)] == [
        0, 0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [float, int, torch.tensor, lambda t: torch.full((3,), t)])
def test_any_form_of_timestep(kind: object) -> None:
    scheduler, tracker = make("DDIMScheduler"), StepTracker()
    table = scheduler.timesteps.tolist()  # type: ignore[attr-defined]
    assert [tracker.step_of(kind(t), scheduler).step for t in table] == [0, 1, 2, 3]  # type: ignore[operator]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "HeunDiscreteScheduler"])
def test_an_interrupted_run_does_not_shift_the_next(name: str, stop: int) -> None:
    tracker, scheduler = StepTracker(), make(name)
    whole = walk(StepTracker(), scheduler)
    walk(tracker, scheduler, last=stop)
    scheduler.set_timesteps(4)  # type: ignore[attr-defined]
    assert tracker.step_of(scheduler.timesteps[0], scheduler).new_run  # type: ignore[attr-defined]
    assert walk(tracker, scheduler) == whole


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_loop_that_sets_its_timesteps_once(stop: int) -> None:
    tracker, scheduler = StepTracker(), make("DDIMScheduler")
    walk(tracker, scheduler, last=stop)
    assert walk(tracker, scheduler) == [0, 1, 2, 3]


def test_another_number_of_steps_and_another_scheduler() -> None:
    tracker = StepTracker()
    for name, count in [("DDIMScheduler", 4), ("DDIMScheduler", 6), ("EulerDiscreteScheduler", 3)]:
        scheduler = make(name, count)
        assert walk(tracker, scheduler) == list(range(count))


def test_one_step_twice() -> None:
    tracker, scheduler = StepTracker(), make("DDIMScheduler", 1)
    first = tracker.step_of(scheduler.timesteps[0], scheduler)  # type: ignore[attr-defined]
    scheduler.set_timesteps(1)  # type: ignore[attr-defined]
    second = tracker.step_of(scheduler.timesteps[0], scheduler)  # type: ignore[attr-defined]
    assert first.new_run
    assert second.new_run


@pytest.mark.parametrize(("name", "first"), [("DDIMScheduler", 4), ("KDPM2DiscreteScheduler", 8)])
def test_image_to_image_enters_in_the_middle(name: str, first: int) -> None:
    tracker, scheduler = StepTracker(), make(name, 8)
    seen = walk(tracker, scheduler, first=first)
    info = tracker.step_of(scheduler.timesteps[-1], scheduler)  # type: ignore[attr-defined]
    assert sorted(set(seen)) == [0, 1, 2, 3]
    assert len(info.timesteps) == 4


def test_an_ascending_table() -> None:
    scheduler, tracker = diffusers.DDIMInverseScheduler(**BETAS), StepTracker()
    scheduler.set_timesteps(4)
    assert walk(tracker, scheduler) == [0, 1, 2, 3]
    assert walk(tracker, scheduler) == [0, 1, 2, 3]


def test_a_timestep_from_elsewhere() -> None:
    with pytest.raises(ScheduleError, match=r"timestep 0\.5.*set_timesteps"):
        StepTracker().step_of(0.5, make("DDIMScheduler"))
