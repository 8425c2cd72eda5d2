"""Layouts in edits of pictures: recorded or joint, and made again from the recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from PIL import Image

from masactrl import EditRequest, InversionRequest, invert
from masactrl.errors import ConfigError
from masactrl.models import LoadedModel, default_preset
from masactrl.rerun.edit import edit_words
from masactrl.rerun.kinds import RerunInputs, rerun_recipe
from masactrl.rerun.layouts import AskedLayout
from masactrl.runs.layout import Layout, LayoutWords

pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path]:
    """A tiny model, and a folder with a ControlNet of its family, a picture and layouts."""
    folder = tmp_path_factory.mktemp("edit")
    tiny_models.sd_controlnet().controlnet.save_pretrained(folder / "net")
    for number, name in enumerate(("photo", "lay", "other")):
        values = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{name}.png")
    model = LoadedModel(
        pipeline=tiny_models.sd(),
        name="tiny",
        family="sd",
        preset=default_preset("sd", height=64, width=64),
    )
    return model, folder


def layout_of(folder: Path, *names: str, **own: Any) -> tuple[Layout, ...]:
    words = LayoutWords(
        layout=tuple(f"pose={folder}/{name}.png" for name in names),
        layout_model=(f"pose={folder}/net",),
        **own,
    )
    return words.layouts()


def edited(tiny: tuple[LoadedModel, Path], mode: str, *names: str, **own: Any) -> Any:
    model, folder = tiny
    session = invert(
        model, folder / "photo.png", InversionRequest(source_prompt=own.pop("source", ""), steps=3)
    )
    targets = own.pop("targets", ("a cat running",))
    request = EditRequest(
        target_prompts=targets,
        start_step=1,
        start_layer=10,
        mode=mode,  # type: ignore[arg-type]
        layouts=layout_of(folder, *names, **own) if names else (),
    )
    return session.edit(request)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("prompt", ["", "a cat"])
def test_targets_are_led_recorded_and_joint_alike(
    tiny: tuple[LoadedModel, Path], prompt: str
) -> None:
    plain = edited(tiny, "joint", source=prompt)
    joint = edited(tiny, "joint", "lay", source=prompt)
    cached = edited(tiny, "cached", "lay", source=prompt)
    assert np.array_equal(pixels(joint.reconstruction), pixels(plain.reconstruction))
    for name in ("controlled", "uncontrolled"):
        without, together, apart = (
            pixels(getattr(one.targets[0], name)) for one in (plain, joint, cached)
        )
        assert np.abs(together - without).max() > 5
        assert np.abs(together - apart).max() <= 2  # rounding of another batch


def test_each_target_has_its_own(tiny: tuple[LoadedModel, Path]) -> None:
    same = ("a cat running", "a cat running")
    result = edited(tiny, "cached", "lay", "other", targets=same)
    first, second = (pixels(one.uncontrolled) for one in result.targets)
    assert not np.array_equal(first, second)


def test_the_recipe_names_the_layout_and_makes_it_again(tiny: tuple[LoadedModel, Path]) -> None:
    model, folder = tiny
    result = edited(tiny, "cached", "lay", layout_until=0.7, layout_scale=0.5)
    recipe = result.recipe("target1-controlled")
    assert [one.name for one in recipe.inputs] == ["photo.png", "lay.png"]
    (told,) = recipe.request["layouts"]
    assert (told["kind"], told["end"], told["scale"]) == ("pose", 0.7, 0.5)
    words = edit_words(recipe)
    for part in ("pose=lay.png", "pose=net"):
        assert part in words
    assert str(folder) not in str(recipe.to_json())
    assert words[words.index("--layout-until") + 1] == "0.7"
    inputs = (folder / "photo.png", folder / "lay.png")
    with pytest.raises(ConfigError, match=r"--layout-model pose=PATH"):
        rerun_recipe(model, recipe, RerunInputs(inputs=inputs))
    given = RerunInputs(inputs=inputs, networks={"pose": str(folder / "net")})
    again = rerun_recipe(model, recipe, given)
    assert np.array_equal(pixels(again), pixels(result.targets[0].controlled))


def test_what_an_edit_cannot_have_is_said(tiny: tuple[LoadedModel, Path]) -> None:
    _, folder = tiny
    (layout,) = layout_of(folder, "lay")
    picture = layout.pictures[0]
    with pytest.raises(ConfigError, match="inverted has no layout"):
        EditRequest(
            target_prompts=("a",),
            layouts=(Layout(kind="pose", pictures=(picture,), source=picture),),
        )
    with pytest.raises(ConfigError, match="takes no layout yet"):
        EditRequest(target_prompts=("a",), layouts=(layout,), method="sdedit")
    wide = Layout(kind="pose", pictures=(picture.resize((96, 64)),), model=str(folder / "net"))
    session = invert(tiny[0], folder / "photo.png", InversionRequest(steps=3))
    request = EditRequest(target_prompts=("a cat",), layouts=(wide,))
    with pytest.raises(ConfigError, match="96x64 and the run 64x64"):
        session.edit(request)


@pytest.mark.parametrize("model", ["../net", "/etc", "owner/name/deeper", "net"])
def test_a_recipe_never_chooses_a_path(model: str) -> None:
    told = AskedLayout(
        kind="pose", scale=1.0, begin=0.0, end=1.0, model=model, files=1, source=False
    )
    with pytest.raises(ConfigError, match="is no Hub id"):
        told.network({})
    assert replace(told, model="owner/name").network({}) == "owner/name"
    assert replace(told, model=None).network({}) is None
