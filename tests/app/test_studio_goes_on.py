"""The studio goes on: after Stop, without memory; and says what a visitor has to know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from masactrl.app import fields
from masactrl.app import studio as studio_module
from masactrl.app.edit_fields import edit_fields
from masactrl.app.opening import opened
from masactrl.app.studio import Studio
from masactrl.app.visit import Stopped
from masactrl.errors import MaskError
from masactrl.models import LoadedModel
from masactrl.runs.recipe import Recipe


@pytest.fixture
def studio(model: LoadedModel) -> Iterator[Studio]:
    made = Studio(model=model, words="models/tiny")
    yield made
    made.close()


def values(studio: Studio) -> dict[str, Any]:
    found = {one.name: one.value for one in fields.set_fields(studio.limits)}
    small = {"steps": 2, "start_step": 1, "width": 16, "height": 16, "target_prompts": "a dog"}
    return found | small | {"source_prompt": "a cat"}


def quiet(done: int, total: int) -> None:
    assert 1 <= done <= total


def test_stop_ends_a_run_that_waits_for_the_device(studio: Studio) -> None:
    studio.ask("one")
    studio.stop("one")
    with pytest.raises(Stopped):
        studio.make_set("one", values(studio), lambda *_: pytest.fail("a step was made"))
    studio.stop("one")  # while nothing runs
    studio.ask("one")
    assert studio.make_set("one", values(studio), quiet).files


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")]
)
def test_the_studio_goes_on_without_memory(
    error: Exception, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("masactrl.studies.attention.run_watched", fail)
        with pytest.raises(type(error)):
            studio.make_set("one", values(studio), quiet)
    assert studio.make_set("two", values(studio), quiet).files
    assert studio.make_set("one", values(studio), quiet).files


@pytest.mark.parametrize(("level", "poor"), [(1000.0, True), (-1000.0, False)])
def test_a_poor_reconstruction_is_said(
    level: float, poor: bool, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio_module, "POOR_DB", level)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 0}
    made = studio.make_edit("one", asked | {"target_prompts": "a dog"}, quiet)
    assert ("expect parts of the picture to change" in made.note) is poor


def test_a_mask_of_everything_is_refused_in_the_page(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "m.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 0}
    asked |= {"mask": str(tmp_path / "m.png"), "target_prompts": "a dog"}
    with pytest.raises(MaskError, match="marks everything"):
        studio.make_edit("one", asked, quiet)


EDIT: dict[str, Any] = {
    "target_prompts": ["a dog"], "steps": 9, "guidance_scale": 3.0, "negative_prompt": None,
    "start_step": 1, "start_layer": 10, "form": "replace", "strength": 1.0,
    "keep_background": False, "compare": True, "mode": "cached", "keep": "memory", "half": True,
    "masks": None, "inversion": {"method": "direct"}, "method": "masactrl", "seed": None,
}  # fmt: skip
GRID = {name: one for name, one in EDIT.items() if not name.startswith("start_")}
SET = {"source_prompt": "a cat", "target_prompts": ["a red dog"], "steps": 9}


@pytest.mark.parametrize(
    ("kind", "request_", "tab", "shown"),
    [
        (
            "auto",
            {"axes": {"start_step": [1, 2], "start_layer": [9, 10]}, "run": GRID, "judges": {},
             "scores": [[1, 9, "0.10"], [2, 10, "0.71, chosen"]]},
            "edit",
            {"start_step": 2, "start_layer": 10, "target_prompts": "a dog"},
        ),
        (
            "attention",
            {"of": "generate", "points": [[1.0, 2.0]], "run": SET},
            "set",
            {"source_prompt": "a cat", "target_prompts": "a red dog", "steps": 9},
        ),
        ("compare", {**EDIT, "methods": ["masactrl"], "options": {}, "seed": 3}, "edit",
         {"start_step": 1, "target_prompts": "a dog"}),
        ("compare", {**SET, "methods": ["sdedit", "no-such"], "options": {}}, "compare",
         {"methods": ["sdedit"], "target_prompt": "a red dog"}),
    ],
)  # fmt: skip
def test_every_picture_that_has_a_run_fills_a_tab(
    kind: str, request_: dict[str, Any], tab: str, shown: dict[str, Any], studio: Studio
) -> None:
    of_photo = "inversion" in request_ or "inversion" in request_.get("run", {})
    recipe = Recipe.parse(
        {
            "schema": 2, "kind": kind, "picture": kind, "device": "cpu", "dtype": "float32",
            "model": {"name": "puppets", "kind": "embedded"}, "request": request_,
            "inputs": [{"name": "a.png", "hash": "0"}] if of_photo else [],
        }
    )  # fmt: skip
    tabs = {
        "set": [one.name for one in fields.set_fields(studio.limits)],
        "compare": [one.name for one in fields.compare_fields(studio.limits)],
        "grid": [one.name for one in fields.grid_fields(studio.limits)],
        "edit": [one.name for one in edit_fields(studio.limits)],
    }
    found = opened(recipe, tabs)
    assert found.tab == tab
    assert shown.items() <= found.values.items()
    assert set(found.values) <= set(tabs[tab])
