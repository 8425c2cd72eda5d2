"""Every control of every tab changes the request that is run: none is dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masactrl.app import fields, requests
from masactrl.app.edit_fields import edit_fields
from masactrl.app.fields import Field, Limits
from masactrl.app.layout_fields import OWN_POSES, animate_fields, layout_fields
from masactrl.app.painting import backdrop, painted_mask, subject_over
from masactrl.errors import ConfigError, MaskError
from masactrl.models import default_preset
from masactrl.runs.request import GenerateRequest

NETWORKS = {"pose": None, "edges": "some/model"}
LIMITS = Limits(preset=default_preset("sd", height=64, width=64), layers=16, networks=NETWORKS)
TABS: Mapping[str, tuple[Callable[[Limits], tuple[Field, ...]], Callable[..., Any]]] = {
    "set": (fields.set_fields, requests.set_request),
    "grid": (fields.grid_fields, requests.grid_request),
    "compare": (fields.compare_fields, requests.compare_request),
    "edit": (edit_fields, requests.edit_requests),
}
OTHER = {  # a value that is another one, and allowed beside the tab's first values
    "start_steps": "1, 2",
    "start_layers": "3",
    "layers": "0-3",
    "methods": ["masactrl"],
    "method": "style-aligned",
    "inversion": "ddim",
    "width": 128,
    "height": 128,
}
OF_WORDS = ("source_word", "target_word", "keep_background", "mask_threshold")
CASES = [(tab, one.name) for tab, (table, _) in TABS.items() for one in table(LIMITS)]


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    found = {}
    for number, name in enumerate(("picture", "mask", "other")):
        Image.new("RGB", (16, 16), (number, number, number)).save(tmp_path / f"{name}.png")
        found[name] = str(tmp_path / f"{name}.png")
    layer = Image.new("RGBA", (16, 16))
    layer.paste((255, 60, 60, 255), (0, 0, 8, 16))
    layer.save(tmp_path / "layer.png")
    return found | {"layer": str(tmp_path / "layer.png")}


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
    if one.widget == "paint":
        return {"background": None, "layers": [pictures["layer"]], "composite": None}
    if one.widget == "tick":
        return not value
    if one.widget in ("whole", "slider", "number"):
        return value + one.step if one.high is None or value + one.step <= one.high else one.low
    if one.widget == "choice":
        return next(choice for choice in one.choices if choice != value)
    return f"{value} and a dog"


@pytest.mark.parametrize(("tab", "name"), CASES)
def test_moving_a_control_moves_the_request(tab: str, name: str, pictures: dict[str, str]) -> None:
    table, build = TABS[tab]
    values = first_values(tab, pictures)
    if tab == "edit" and name in OF_WORDS:
        # Both words belong together, and a background and a threshold to them.
        values |= {"source_prompt": "a cat", "source_word": "cat", "target_word": "cat"}
        other = {"keep_background": True, "mask_threshold": 0.5}.get(name, "running")
    else:
        if name == "noise_shift":
            values["inversion"] = "edit-friendly"  # whose it is
        (one,) = (one for one in table(LIMITS) if one.name == name)
        other = moved(one, values[name], pictures)
    before, after = build(values), build({**values, name: other})
    if name in ("mask", "painted"):  # requests with pictures are compared by being, not by value
        assert before[2].masks is None
        assert after[2].masks is not None
    elif name in ("source_word", "target_word"):
        side = name.partition("_")[0].replace("target", "targets")
        assert getattr(before[2].masks, side) != getattr(after[2].masks, side)
    elif name == "mask_threshold":
        assert (before[2].masks.threshold, after[2].masks.threshold) == (0.1, 0.5)
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
        ("edit", {"method": "sdedit", "form": "union"}, "belongs to the method masactrl"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    tab: str, change: dict[str, Any], sentence: str, pictures: dict[str, str]
) -> None:
    values = first_values(tab, pictures) | change
    with pytest.raises((ConfigError, MaskError), match=sentence):
        TABS[tab][1](values)


def test_ways_to_say_the_subject_exclude_each_other(pictures: dict[str, str]) -> None:
    values = first_values("edit", pictures)
    painted = {"layers": [pictures["layer"]]}
    for given, said in (
        ({"mask": pictures["mask"], "source_word": "cat"}, "words and by a mask file"),
        ({"painted": painted, "target_word": "cat"}, "words and by a painted mask"),
        ({"painted": painted, "mask": pictures["mask"]}, "a mask file and by a painted mask"),
    ):
        with pytest.raises(ConfigError, match=f"by {said}; choose one of them"):
            requests.edit_requests(values | given)


def test_what_is_painted_is_the_mask(pictures: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    Image.new("RGBA", (16, 16)).save(empty)
    for nothing in (None, {}, {"layers": []}, {"layers": [None]}, {"layers": [str(empty)]}):
        assert painted_mask(nothing) is None
    values = first_values("edit", pictures)
    _, _, request = requests.edit_requests(
        values | {"painted": {"layers": [str(empty), pictures["layer"]]}}
    )
    assert request.masks is not None
    drawn = np.asarray(request.masks.source)
    assert (drawn[:, :8] == 255).all()
    assert (drawn[:, 8:] == 0).all()
    assert request.masks.stated[0].name == "painted-mask.png"
    Image.new("RGBA", (8, 8), (255, 0, 0, 255)).save(empty)
    with pytest.raises(ConfigError, match="differ in size"):
        painted_mask({"layers": [pictures["layer"], str(empty)]})
    empty.write_text("no picture")
    with pytest.raises(ConfigError, match="cannot be read"):
        painted_mask({"layers": [str(empty)]})


def test_the_canvas_is_the_picture_and_masks_lie_over_it(pictures: dict[str, str]) -> None:
    assert backdrop(None) is None
    canvas = backdrop(pictures["picture"])
    assert canvas is not None
    assert canvas["background"].size == (512, 512)
    painted = {"layers": [pictures["layer"]]}
    assert subject_over(None, None, painted) is None
    assert subject_over(pictures["picture"], None, None) is None
    over = subject_over(pictures["picture"], None, painted)
    assert over is not None
    assert over.getpixel((10, 100)) != over.getpixel((200, 100))


@pytest.mark.parametrize("tab", TABS)
def test_a_layout_reaches_the_request(tab: str, pictures: dict[str, str]) -> None:
    def layouts(**own: Any) -> Any:
        values = first_values(tab, pictures) | {one.name: one.value for one in shown} | own
        made = TABS[tab][1](values, NETWORKS)
        return (made if tab == "set" else made[2] if tab == "edit" else made[0]).layouts

    shown = layout_fields(LIMITS)
    assert layouts() == ()
    (usual,) = layouts(layout=pictures["other"])
    assert (usual.kind, usual.model, usual.stated[0].name) == ("pose", None, "other.png")
    (moved,) = layouts(
        layout=pictures["other"], layout_kind="edges", layout_scale=0.5, layout_until=0.6
    )
    assert (moved.kind, moved.model, moved.scale, moved.end) == ("edges", "some/model", 0.5, 0.6)
    assert layout_fields(Limits(preset=LIMITS.preset, layers=16)) == ()


def test_every_control_of_an_animation_moves_its_request(pictures: dict[str, str]) -> None:
    shown = animate_fields(LIMITS)
    values = {one.name: one.value for one in shown}
    files = [pictures["other"], pictures["mask"]]

    def told(**own: Any) -> str:
        request, poses, motion = requests.animate_request(values | own, NETWORKS)
        return f"{request} {poses.described()} {poses.stated} {motion}"

    for one in shown:
        given: dict[str, Any] = {"poses": OWN_POSES, "pictures": files}
        own = {} if one.name in ("poses", "frames") else given
        if one.name == "inversion":
            own = {**given, "photo": pictures["picture"]}
        other = [*files, pictures["picture"]] if one.name == "pictures" else None
        new = moved(one, values[one.name], pictures) if other is None else other
        if one.name == "poses":
            new = "jump"
        assert told(**own) != told(**{**own, one.name: new}), one.name
    _, poses, _ = requests.animate_request(values | {"poses": OWN_POSES, "pictures": files})
    assert [one.name for one in poses.stated] == ["mask.png", "other.png"]
    with pytest.raises(ConfigError, match="0 pictures of poses were given"):
        requests.animate_request(values | {"poses": OWN_POSES})
    assert animate_fields(Limits(preset=LIMITS.preset, layers=16)) == ()


def test_limits_are_those_of_the_model() -> None:
    by_name = {one.name: one for one in fields.set_fields(LIMITS)}
    assert (by_name["start_layer"].low, by_name["start_layer"].high) == (0, 15)
    assert by_name["width"].value == 64


def test_every_field_is_a_field_of_its_request() -> None:
    names = {one.name for one in fields.set_fields(LIMITS)}
    missing = set(GenerateRequest.__dataclass_fields__) - names
    assert missing == {
        "method_options",
        "layouts",
        "guidance_begin",
        "guidance_end",
        "start_at",
    }  # the command line has them


def test_a_preview_begins_control_where_the_run_does(pictures: dict[str, str]) -> None:
    assert LIMITS.preview_steps == 20  # of 50
    values = first_values("edit", pictures) | {"start_step": 10}
    _, inversion, request = requests.edit_requests(requests.previewed(values, 20, edit=True))
    assert (inversion.steps, request.start_step, request.compare) == (20, 4, False)
    fewer = first_values("set", pictures) | {"steps": 12, "target_prompts": "a cat"}
    assert requests.previewed(fewer, 20, edit=False) == fewer
    few = Limits(preset=default_preset("flux", height=64, width=64, distilled=True), layers=57)
    assert few.preview_steps is None
