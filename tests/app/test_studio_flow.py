"""The studio with SD3: it offers what the family has, and makes sets, comparisons and edits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_mmdit

from masactrl.app import fields
from masactrl.app.edit_fields import edit_fields
from masactrl.app.studio import Studio
from masactrl.models import LoadedModel, default_preset

SMALL = {"steps": 2, "start_step": 0, "start_layer": 1, "width": 32, "height": 32}
SAID = {"source_prompt": "a cat", "target_prompt": "a dog", "target_prompts": "a dog"}


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    preset = default_preset("sd3", height=32, width=32, layers=4)
    model = LoadedModel(pipeline=tiny_mmdit.sd3(t5=False), name="t", family="sd3", preset=preset)
    made = Studio(model=model, words="t")
    yield made
    made.close()


def values(found: tuple[fields.Field, ...], **more: Any) -> dict[str, Any]:
    own = {one.name: one.value for one in found}
    return own | {name: one for name, one in (SMALL | SAID | more).items() if name in own}


def quiet(_done: int, _total: int) -> None:
    """No progress."""


def test_it_offers_what_the_family_has(studio: Studio) -> None:
    compared = fields.offered(fields.compare_fields(studio.limits), studio.limits)
    (methods,) = (one for one in compared if one.name == "methods")
    assert methods.choices == ("masactrl", "sdedit", "flowedit", "consistedit", "rf-edit")
    assert set(methods.value) <= set(methods.choices)
    edited = fields.offered(edit_fields(studio.limits), studio.limits)
    (inversion,) = (one for one in edited if "direct" in one.choices)
    assert "rf-solver" in inversion.choices
    assert "null-text" not in inversion.choices


def test_its_tabs_run(studio: Studio) -> None:
    limits = studio.limits
    made = studio.make_set("one", values(fields.set_fields(limits)), quiet)
    assert len(made.shown) == 3
    assert studio.watched("one", "set") is None  # joint attention shows nothing yet
    rivals = values(fields.compare_fields(limits), methods=["masactrl", "flowedit"])
    assert len(studio.make_comparison("one", rivals, quiet).shown) == 4
    source = Path(made.files[0])
    edited = studio.make_edit("one", values(edit_fields(limits), picture=str(source)), quiet)
    assert "--inversion direct" in edited.command
