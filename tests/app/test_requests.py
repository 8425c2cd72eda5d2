"""Every control of every tab changes the request that is run: none is dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masactrl.app import fields, requests
from masactrl.app.edit_fields import edit_fields
from masactrl.app.fields import Field, Limits
from masactrl.errors import ConfigError, MaskError
from masactrl.models import default_preset
from masactrl.request import GenerateRequest

LIMITS = Limits(preset=default_preset("sd", height=64, width=64), layers=16)
TABS: Mapping[str, tuple[Callable[[Limits], tuple[Field, ...]], Callable[..., Any]]] = {
    "set": (fields.set_fields, requests.set_request),
    "grid": (fields.grid_fields, requests.grid_requests),
    "compare": (fields.compare_fields, requests.compare_request),
    "edit": (edit_fields, requests.edit_requests),
}
OTHER = {  # a value that is another one, and allowed beside the tab's first values
    "start_steps": "1, 2",
    "start_layers": "3",
    "methods": ["masactrl"],
    "method": "style-aligned",
    "inversion": "ddim",
    "width": 128,
    "height": 128,
}
CASES = [(tab, one.name) for tab, (table, _) in TABS.items() for one in table(LIMITS)]


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    found = {}
    for number, name in enumerate(("picture", "mask", "other")):
        Image.new("RGB", (16, 16), (number, number, number)).save(tmp_path / f"{name}.png")
        found[name] = str(tmp_path / f"{name}.png")
    return found


def first_values(tab: str, pictures: Mapping[str, str]) -> dict[str, Any]:
    values = {one.name: one.value for one in TABS[tab][0](LIMITS)}
    if tab == "edit":
        values |= {"picture": pictures["picture"], "target_prompts": "a running cat"}
    return values


def moved(one: Field, value: Any, pictures: Mapping[str, str]) -> Any:
    if one.name in OTHER:
        return OTHER[one.name]
    if one.widget == "picture":
        return pictures["other" if one.name == "picture" else "mask"]
    if one.widget == "tick":
        return not value
    if one.widget in ("whole", "slider"):
        return value + one.step if one.high is None or value + one.step <= one.high else one.low
    if one.widget == "choice":
        return next(choice for choice in one.choices if choice != value)
    return f"{value} and a dog"


@pytest.mark.parametrize(("tab", "name"), CASES)
def test_moving_a_control_moves_the_request(tab: str, name: str, pictures: dict[str, str]) -> None:
    table, build = TABS[tab]
    values = first_values(tab, pictures)
    if tab == "edit" and name in ("source_word", "target_word", "keep_background"):
        # Both words belong together, and a background to a mask.
        values |= {"prompt": "a cat", "source_word": "cat", "target_word": "cat"}
        other = {"keep_background": True}.get(name, "running")
    else:
        (one,) = (one for one in table(LIMITS) if one.name == name)
        other = moved(one, values[name], pictures)
    before, after = build(values), build({**values, name: other})
    if name == "mask":  # requests with pictures are compared by being, not by value
        assert before[2].masks is None
        assert after[2].masks is not None
    elif name in ("source_word", "target_word"):
        side = name.partition("_")[0].replace("target", "targets")
        assert getattr(before[2].masks, side) != getattr(after[2].masks, side)
    elif name == "keep_background":
        assert before[2].keep_background is not after[2].keep_background
    else:
        assert before != after


def test_values_come_back_from_a_request(pictures: dict[str, str]) -> None:
    values = first_values("set", pictures) | {"seed": 5, "target_prompts": "a dog\na fox"}
    request = requests.set_request(values)
    shown = requests.shown_values(tuple(values), request)
    assert shown == values
    assert requests.set_request(shown) == request


@pytest.mark.parametrize(
    ("tab", "change", "sentence"),
    [
        ("set", {"target_prompts": " \n"}, "at least one line"),
        ("set", {"width": 30}, "multiples of 8"),
        ("set", {"method": "sdedit", "form": "union"}, "belongs to the method masactrl"),
        ("grid", {"start_steps": "1, x"}, "numbers between commas"),
        ("grid", {"start_layers": ",".join(map(str, range(13)))}, "at most 12"),
        ("edit", {"picture": None}, "choose one first"),
        ("edit", {"keep_background": True}, "needs masks"),
        ("edit", {"source_word": "cat"}, "Name the subject of the targets"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    tab: str, change: dict[str, Any], sentence: str, pictures: dict[str, str]
) -> None:
    values = first_values(tab, pictures) | change
    with pytest.raises((ConfigError, MaskError), match=sentence):
        TABS[tab][1](values)


def test_a_mask_and_words_exclude_each_other(pictures: dict[str, str]) -> None:
    values = first_values("edit", pictures) | {"mask": pictures["mask"], "source_word": "cat"}
    with pytest.raises(ConfigError, match="choose one of them"):
        requests.edit_requests(values)


def test_limits_are_those_of_the_model() -> None:
    by_name = {one.name: one for one in fields.set_fields(LIMITS)}
    assert (by_name["start_layer"].low, by_name["start_layer"].high) == (0, 15)
    assert by_name["width"].value == 64


def test_every_field_is_a_field_of_its_request() -> None:
    names = {one.name for one in fields.set_fields(LIMITS)}
    missing = set(GenerateRequest.__dataclass_fields__) - names
    assert missing == {"method_options"}  # of other methods; the command line has them
