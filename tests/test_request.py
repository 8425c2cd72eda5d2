from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict
from typing import Any, get_args

import pytest

from masactrl import methods
from masactrl.errors import ConfigError, PromptError
from masactrl.models import ModelPreset
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.recipe import checked
from masactrl.runs.request import GenerateRequest
from masactrl.settings.shared import Form

PRESET = ModelPreset(
    steps=50, guidance_scale=5.0, start_step=4, start_layer=10, height=128, width=256
)


def request(**values: Any) -> GenerateRequest:
    return GenerateRequest(**{"source_prompt": "a cat", "target_prompts": ("a dog",), **values})


def test_what_is_left_open_comes_from_the_preset() -> None:
    resolved = request().resolve(PRESET)
    assert resolved.recipe() == {
        "source_prompt": "a cat",
        "target_prompts": ("a dog",),
        "seed": 0,
        "steps": 50,
        "clip_skip": 0,
        "guidance_begin": 0.0,
        "guidance_end": 1.0,
        "guidance_scale": 5.0,
        "negative_prompt": "",
        "height": 128,
        "width": 256,
        "start_step": 4,
        "start_at": None,
        "start_layer": 10,
        "layers": "",
        "form": "replace",
        "strength": 1.0,
        "positions": "same",
        "method": "masactrl",
        "method_options": (),
    }


def test_what_is_given_stays() -> None:
    given: dict[str, Any] = {
        "seed": 2**63 - 1,
        "steps": 7,
        "guidance_scale": 1.0,
        "negative_prompt": "blurred",
        "height": 64,
        "width": 8,
        "start_step": 0,
        "start_layer": 0,
        "form": "union",
        "strength": 0.0,
    }
    resolved = asdict(request(**given).resolve(PRESET))
    assert {name: resolved[name] for name in given} == given


@pytest.mark.parametrize(
    ("steps", "start_step"), [(50, 4), (100, 8), (25, 2), (20, 2), (4, 0), (1, 0)]
)
def test_control_begins_at_the_same_part_of_the_run(steps: int, start_step: int) -> None:
    assert request(steps=steps).resolve(PRESET).start_step == start_step


def test_control_that_begins_last_still_begins() -> None:
    late = ModelPreset(
        steps=50, guidance_scale=5.0, start_step=49, start_layer=10, height=8, width=8
    )
    assert request(steps=3).resolve(late).start_step == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"source_prompt": ""}, "The source prompt is empty"),
        ({"source_prompt": " \n"}, "The source prompt is empty"),
        ({"target_prompts": ()}, "There is no target prompt"),
        ({"target_prompts": ("a dog", " ")}, "Target prompt 2 is empty"),
        ({"target_prompts": "a dog"}, "not one string"),
    ],
)
def test_prompts_say_something(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        request(**values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seed": -1}, "seed=-1 was given; accepted is 0 to 9223372036854775807"),
        ({"seed": 2**63}, "accepted is 0 to 9223372036854775807"),
        ({"steps": 0}, "steps=0 was given; accepted is 1 to 1000"),
        ({"steps": 1001}, "accepted is 1 to 1000"),
        ({"guidance_scale": 0.9}, r"accepted is 1 \(no guidance\) and more"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"height": 100}, "height=100 was given; accepted is 8 to 4096 in multiples of 8"),
        ({"width": 0}, "width=0 was given"),
        ({"width": 4104}, "accepted is 8 to 4096"),
        ({"start_step": -1}, "start_step=-1 was given; accepted is 0 and more"),
        ({"start_layer": -1}, "start_layer=-1"),
        ({"form": "mix"}, "accepted are replace, union"),
        ({"strength": 1.1}, "strength=1.1 was given; accepted is 0 to 1"),
        ({"strength": float("nan")}, "strength=nan"),
    ],
)
def test_values_out_of_range_name_the_range(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        request(**values)


def test_the_forms_are_those_of_the_method_and_of_the_command_line() -> None:
    assert get_args(Form) == get_args(methods.Form)


def test_a_request_is_a_value() -> None:
    prompts = ["a dog"]
    one = request(target_prompts=prompts)
    prompts.append("a fox")
    assert one == request()
    assert hash(one) == hash(request())
    with pytest.raises(FrozenInstanceError):
        one.seed = 3  # type: ignore[misc]


def test_a_field_answers_to_its_name_of_before_and_says_so() -> None:
    with pytest.warns(DeprecationWarning, match=r"InversionRequest\.prompt is now source_prompt"):
        old = InversionRequest(prompt="a cat", steps=3)  # type: ignore[call-arg]
    assert old == InversionRequest(source_prompt="a cat", steps=3)
    with pytest.warns(DeprecationWarning, match="source_prompt"):
        assert old.prompt == "a cat"  # type: ignore[attr-defined]
    # Recipes and sessions of before are read without a word.
    assert checked(InversionRequest, {"prompt": "a cat", "steps": 3}) == old
