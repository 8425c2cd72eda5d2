from __future__ import annotations

import pytest
import tiny_models

from masactrl.attention import PRESETS, SDXL_START_LAYERS, Schedule, find_layers, preset
from masactrl.errors import ScheduleError

SD = find_layers(tiny_models.unet())
SDXL = find_layers(tiny_models.unet(xl=True))
DDIM_50 = [981.0 - 20 * step for step in range(50)]


def steps(schedule: Schedule, count: int = 50) -> list[int]:
    return sorted(schedule.resolve(SD, count).steps)


def layers(schedule: Schedule) -> list[int]:
    return sorted(schedule.resolve(SD, 50).layers)


def test_start_step_and_layer_are_inclusive() -> None:
    window = Schedule(start_step=4, start_layer=10).resolve(SD, 50)
    assert sorted(window.steps) == list(range(4, 50))
    assert sorted(window.layers) == list(range(10, 16))
    assert (4, 10) in window
    assert (3, 10) not in window
    assert (4, 9) not in window


def test_nothing_given_means_everywhere() -> None:
    window = Schedule().resolve(SD, 3)
    assert sorted(window.steps) == [0, 1, 2]
    assert len(window.layers) == 16


def test_explicit_lists() -> None:
    assert steps(Schedule(steps=(7, 3))) == [3, 7]
    assert layers(Schedule(layers=(15, 2))) == [2, 15]
    assert layers(Schedule(layers=6)) == [6]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "first"), [(50, 4), (25, 2), (20, 2), (100, 8), (4, 1), (1000, 80)]
)
def test_a_fraction_fits_any_number_of_steps(count: int, first: int) -> None:
    assert steps(Schedule(fraction=(0.08, 1.0)), count) == list(range(first, count))


def test_a_fraction_ends_before_its_end() -> None:
    assert steps(Schedule(fraction=(0.25, 0.5)), 8) == [2, 3]


def test_a_timestep_threshold() -> None:
    window = Schedule(max_timestep=901).resolve(SD, DDIM_50)
    assert min(window.steps) == 4
    both = Schedule(max_timestep=901, start_step=10).resolve(SD, DDIM_50)
    assert min(both.steps) == 10


def test_places_and_scales() -> None:
    assert layers(Schedule(places=("mid",))) == [6]
    assert layers(Schedule(places=("encoder", "mid"))) == list(range(7))
    assert layers(Schedule(scales=(1,))) == [0, 1, 13, 14, 15]
    assert layers(Schedule(places=("decoder",), scales=(1, 2))) == list(range(10, 16))
    assert layers(Schedule(places=("decoder",), start_layer=12)) == list(range(12, 16))


def test_never() -> None:
    window = Schedule.never().resolve(SD, 50)
    assert not window.steps
    assert not window.layers


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(steps=()), "steps is empty.*never"),
        (lambda: Schedule(layers=()), "layers is empty"),
        (lambda: Schedule(steps=(1,), start_step=1), "stands alone"),
        (lambda: Schedule(layers=(1,), places=("mid",)), "stands alone"),
        (lambda: Schedule(start_step=-1), "counting starts at 0"),
        (lambda: Schedule(fraction=(0.5, 0.5)), "0 <= begin < end <= 1"),
        (lambda: Schedule(fraction=(0.0, 1.5)), "0 <= begin < end <= 1"),
        (lambda: Schedule(fraction=(0.1, 0.5, 1.0)), "0 <= begin < end <= 1"),
        (lambda: Schedule(fraction=0.5), "0 <= begin < end <= 1"),
        (lambda: Schedule(fraction=("a", "b")), "0 <= begin < end <= 1"),
        (lambda: Schedule(start_step=0.08), "start_step=0.08.*whole numbers.*fraction"),
        (lambda: Schedule(start_layer=True), "start_layer=True.*whole numbers"),
        (lambda: Schedule(steps=("4",)), r"steps=\('4',\).*whole numbers"),
        (lambda: Schedule(max_timestep="late"), "max_timestep='late'"),
        (lambda: Schedule(max_timestep=float("nan")), "max_timestep=nan"),
        (lambda: Schedule(places=("middle",)), "'middle' is not known.*encoder, mid, decoder"),
        (lambda: Schedule(idle=True, start_step=1), "never"),
        (lambda: Schedule(start_layer=16).resolve(SD, 50), "start_layer=16.*0 to 15"),
        (lambda: Schedule(layers=(3, 70)).resolve(SDXL, 50), "layer=70.*0 to 69"),
        (lambda: Schedule(start_step=50).resolve(SD, 50), "start_step=50.*50 steps.*0 to 49"),
        (lambda: Schedule(steps=(4,)).resolve(SD, 4), "step=4.*0 to 3"),
        (lambda: Schedule(scales=(3,)).resolve(SD, 4), "scale 3.*1, 2, 4, 8"),
        (lambda: Schedule(places=("mid",), scales=(1,)).resolve(SD, 4), "exclude each other"),
        (lambda: Schedule(max_timestep=0).resolve(SD, DDIM_50), "No step.*981 to 1"),
        (lambda: Schedule(max_timestep=5).resolve(SD, 50), "only their number"),
        (lambda: preset(SD[:5]), "5 self-attention layers"),
    ],
)
def test_bad_schedules_are_sentences(make: object, words: str) -> None:
    with pytest.raises(ScheduleError, match=words) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value).endswith(".")


def test_presets() -> None:
    paper = PRESETS["sd"].resolve(SD, 50)
    assert min(paper.steps) == 4
    assert min(paper.layers) == 10
    assert preset(SD) is PRESETS["sd"]
    assert preset(SDXL) is PRESETS["sdxl"]
    for layer in SDXL_START_LAYERS:
        assert min(PRESETS[f"sdxl-{layer}"].resolve(SDXL, 50).layers) == layer


def test_a_schedule_is_a_value() -> None:
    assert Schedule(steps=[1, 2]) == Schedule(steps=(1, 2))  # type: ignore[arg-type]
    assert len({Schedule(), Schedule()}) == 1
