"""The control that a request asks for in words: layers as a list, positions by name."""

from __future__ import annotations

import pytest

from masactrl.attention import Schedule
from masactrl.errors import ConfigError, ScheduleError
from masactrl.methods import MasaCtrl
from masactrl.models.presets import ModelPreset
from masactrl.runs.request import GenerateRequest
from masactrl.settings.shared import parse_layers

PRESET = ModelPreset(
    steps=20, guidance_scale=3.5, start_step=2, start_layer=19, height=64, width=64
)


def asked(**options: object) -> GenerateRequest:
    return GenerateRequest(source_prompt="a", target_prompts=("b",), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "layers"),
    [("", None), ("3", (3,)), ("18, 0,7-10", (0, 7, 8, 9, 10, 18)), ("2-2", (2,))],
)
def test_layers_in_words(text: str, layers: tuple[int, ...] | None) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["x", "1,,2", "4-2", "-3", "1-", "1.5"])
def test_what_are_no_layers(text: str) -> None:
    with pytest.raises(ConfigError, match="numbers and spans of numbers, such as"):
        asked(layers=text)


def test_a_request_becomes_a_control() -> None:
    settings = asked(layers="0,7-10", positions="damped", strength=0.5).resolve(PRESET)
    assert settings.start_layer == 0
    control = MasaCtrl.of(settings)
    assert control.schedule == Schedule(start_step=2, layers=(0, 7, 8, 9, 10))
    assert (control.positions, control.strength) == ("damped", 0.5)
    later = asked(layers="0,7-10", start_layer=8).resolve(PRESET)
    assert MasaCtrl.of(later).schedule.layers == (8, 9, 10)
    assert MasaCtrl.of(later, start=(1, 10)).schedule == Schedule(start_step=1, layers=(10,))
    with pytest.raises(ScheduleError, match="layers is empty"):
        MasaCtrl.of(later, start=(1, 11))
    plain = asked().resolve(PRESET)
    assert MasaCtrl.of(plain).schedule == Schedule(start_step=2, start_layer=19)
