"""Runs behind the page: the same pictures as the command line, kept apart by visitor."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from editing_parts import random_picture
from PIL import Image, ImageChops

from masactrl.app import fields
from masactrl.app.edit_fields import edit_fields
from masactrl.app.layout_fields import animate_fields
from masactrl.app.studio import POOR_DB, Studio
from masactrl.app.visit import Stopped
from masactrl.cli import main
from masactrl.errors import ConfigError, ScheduleError
from masactrl.models import LoadedModel
from masactrl.models.origin import file_hash
from masactrl.pictures.images import read_recipe, save_png
from masactrl.runs.generate import generate
from masactrl.runs.recipe import Recipe
from masactrl.runs.request import GenerateRequest


@pytest.fixture
def studio(model: LoadedModel) -> Iterator[Studio]:
    made = Studio(model=model, words="models/tiny")
    yield made
    made.close()


def values(studio: Studio, **change: Any) -> dict[str, Any]:
    found = {one.name: one.value for one in fields.set_fields(studio.limits)}
    small = {"steps": 2, "start_step": 1, "width": 16, "height": 16, "target_prompts": "a dog"}
    return found | small | {"source_prompt": "a cat"} | change


def quiet(done: int, total: int) -> None:
    assert 1 <= done <= total


def test_a_set_is_what_generate_makes(studio: Studio, model: LoadedModel) -> None:
    made = studio.make_set("one", values(studio), quiet)
    recipe = Recipe.parse(read_recipe(Path(made.files[2])))
    expected = generate(
        model,
        GenerateRequest(
            source_prompt="a cat",
            target_prompts=("a dog",),
            seed=7,
            steps=2,
            start_step=1,
            width=16,
            height=16,
        ),
    )
    with Image.open(made.files[2]) as shown:
        difference = ImageChops.difference(shown.convert("RGB"), expected.targets[0].controlled)
    assert difference.getbbox() is None
    assert recipe.picture == "target1-controlled"
    assert json.loads(made.recipe)["request"]["seed"] == 7
    assert made.command.startswith("masactrl generate 'a cat' ")
    assert "--to 'a dog' --seed 7" in made.command
    assert "--model models/tiny" in made.command
    assert len(made.shown) == 3
    assert made.before_after is not None


def test_visitors_have_folders_of_their_own(studio: Studio) -> None:
    one = studio.make_set("../../etc", values(studio), quiet)
    two = studio.make_set("two", values(studio, seed=8), quiet)
    again = studio.make_set("two", values(studio, seed=9), quiet)
    folders = [Path(made.files[0]).parent for made in (one, two, again)]
    assert len(set(folders)) == 3
    assert folders[0].parent != folders[1].parent == folders[2].parent
    assert all(folder.is_relative_to(studio._root) for folder in folders)
    studio.leave("two")
    assert [folder.exists() for folder in folders] == [True, False, False]


def test_stop_ends_one_visitor_s_run_and_the_next_one_works(studio: Studio) -> None:
    def stop(done: int, total: int) -> None:
        studio.stop("one")

    with pytest.raises(Stopped):
        studio.make_set("one", values(studio, steps=5), stop)
    assert studio.make_set("two", values(studio), lambda *_: studio.stop("one")).files
    assert studio.make_set("one", values(studio), quiet).files


def test_one_run_at_a_time_is_on_the_device(studio: Studio) -> None:
    order: list[str] = []

    def run(name: str) -> None:
        studio.make_set(name, values(studio, steps=4), lambda *_: order.append(name))

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "".join(order) in ("aaaabbbb", "bbbbaaaa")


def test_a_grid_has_a_picture_for_every_s_and_l(studio: Studio) -> None:
    asked = {one.name: one.value for one in fields.grid_fields(studio.limits)}
    asked |= {"steps": 2, "width": 16, "height": 16, "start_steps": "0, 1", "start_layers": "9, 10"}
    asked |= {"source_prompt": "a cat", "target_prompt": "a dog", "strength": 0.5}
    steps: list[tuple[int, int]] = []
    made = studio.make_grid("one", asked, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)
    assert made.columns == 2
    assert [caption for _, caption in made.shown] == ["S0, L9", "S0, L10", "S1, L9", "S1, L10"]
    assert [Path(path).stem for path in made.files] == [
        "sweep",
        "target1-S0-L9",
        "target1-S0-L10",
        "target1-S1-L9",
        "target1-S1-L10",
    ]
    for path in made.files:
        recipe = Recipe.parse(read_recipe(Path(path)))
        assert (recipe.kind, recipe.picture) == ("sweep", Path(path).stem)
    assert made.command.startswith("masactrl sweep start-step=0,1 start-layer=9,10 --source 'a c")
    tabs = {"set": tuple(values(studio)), "grid": tuple(asked)}
    found = studio.open_result(Path(made.files[0]), tabs)
    assert (found.tab, found.values) == ("grid", asked)
    assert studio.open_result(Path(made.files[1]), tabs).tab == "set"
    with pytest.raises(ScheduleError, match="0 to 1"):
        studio.make_grid("one", asked | {"start_steps": "0, 5"}, lambda *_: pytest.fail("a step"))


def test_a_cell_of_a_sweep_is_opened_as_its_run(
    studio: Studio, model_folder: Path, tmp_path: Path
) -> None:
    words = ["start-step=0-1", "start-layer=9,12", "--source", "a cat", "--to", "a dog"]
    words += ["--model", str(model_folder), "--steps", "2", "--device", "cpu"]
    assert main(["sweep", *words, "--size", "16x16", "-o", str(tmp_path)]) == 0
    asked = values(studio)
    found = studio.open_result(tmp_path / "target1-S1-L12.png", {"set": tuple(asked)})
    assert (found.values["start_step"], found.values["start_layer"]) == (1, 12)
    assert "S=1, L=12" in found.told


def test_opening_a_result_fills_the_fields_and_runs_nothing(studio: Studio, tmp_path: Path) -> None:
    asked = values(studio, seed=11, negative_prompt="a horse")
    made = studio.make_set("one", asked, quiet)
    tabs = {"set": tuple(asked)}
    found = studio.open_result(Path(made.files[1]), tabs)
    assert (found.tab, found.values) == ("set", asked)
    assert "tiny" in found.told
    other = Recipe.parse(read_recipe(Path(made.files[1]))).to_json()
    other["kind"] = "demo"
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), other)
    with pytest.raises(ConfigError, match="of a run of 'demo'"):
        studio.open_result(tmp_path / "a.png", tabs)
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), {**other, "schema": 99})
    with pytest.raises(ConfigError, match="update masactrl"):
        studio.open_result(tmp_path / "a.png", tabs)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ConfigError, match="cannot be read as a picture"):
        studio.open_result(tmp_path / "b.png", tabs)


# Tiny maps make masks without background now and then.
@pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")
def test_an_edit_says_its_command_and_fills_the_fields_again(
    studio: Studio, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 1, "form": "union"}
    asked |= {"source_prompt": "a cat", "source_word": "cat", "target_word": "dog", "strength": 0.5}
    asked |= {"target_prompts": "a dog\na running dog", "keep_background": True}
    made = studio.make_edit("one", asked, quiet)
    assert made.command.startswith("masactrl edit a.png --to 'a dog' --to 'a running dog'")
    for words in ("--from 'a cat'", "--mask-word dog", "--source-mask-word cat",
                  "--keep-background", "--form union", "--strength 0.5",
                  "--model models/tiny"):  # fmt: skip
        assert words in made.command
    assert json.loads(made.recipe)["inputs"][0]["name"] == "a.png"
    found = studio.open_result(Path(made.files[-1]), {"edit": tuple(asked)})
    pictures = {name: one for name, one in asked.items() if name not in found.values}
    assert pictures == {"picture": str(tmp_path / "a.png"), "mask": None, "painted": None}
    assert {**pictures, **found.values} == asked
    assert "choose a.png again" in found.told
    assert "no fields" not in found.told


def test_a_mask_and_what_has_no_field_are_said(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    drawn = Image.new("L", (64, 64))
    drawn.paste(255, (0, 0, 32, 64))
    drawn.save(tmp_path / "m.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 1}
    asked |= {"mask": str(tmp_path / "m.png"), "target_prompts": "a dog", "keep_background": True}
    made = studio.make_edit("one", asked, quiet)
    assert [Path(path).stem for path, _ in made.shown][-1] == "subject-over-pictures"
    assert not any("mask" in Path(path).stem for path, _ in made.shown), "they lie over pictures"
    assert {"mask", "target1-mask"} <= {Path(path).stem for path in made.files}
    assert "--mask-file m.png" in made.command
    recipe = Recipe.parse(read_recipe(Path(made.files[-1]))).to_json()
    recipe["request"]["inversion"]["replay"] = False
    recipe["request"]["mode"] = "joint"
    save_png(tmp_path / "b.png", Image.new("RGB", (8, 8)), recipe)
    found = studio.open_result(tmp_path / "b.png", {"edit": tuple(asked)})
    assert found.values["keep_background"] is True
    assert "choose a.png, m.png again" in found.told
    assert "no fields for replay, mode" in found.told


def test_a_comparison_says_its_command_and_fills_the_fields_again(studio: Studio) -> None:
    asked = {one.name: one.value for one in fields.compare_fields(studio.limits)}
    asked |= {"steps": 2, "start_step": 1, "width": 16, "height": 16, "methods": ["masactrl"]}
    made = studio.make_comparison("one", asked, quiet)
    assert made.command.startswith("masactrl compare 'a cat standing in the snow, facing left'")
    assert "--method masactrl" in made.command
    found = studio.open_result(Path(made.files[0]), {"compare": tuple(asked)})
    assert (found.tab, found.values) == ("compare", asked)


def test_an_edit_inverts_once_for_many_prompts(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 1}
    first = studio.make_edit("one", asked | {"target_prompts": "a dog"}, quiet)
    session = studio._visits["one"].inverted
    second = studio.make_edit("one", asked | {"target_prompts": "a cat"}, quiet)
    assert studio._visits["one"].inverted is session
    assert first.files[0] != second.files[0]
    assert first.before_after is not None
    captions = [caption for _, caption in first.shown]
    assert [one.partition(",")[0] for one in captions] == [
        "input", "reconstruction", "target1 uncontrolled", "target1 controlled",
    ]  # fmt: skip
    ratio = captions[1].removeprefix("reconstruction, ")
    assert first.note.startswith(f"Reconstruction {ratio}.")
    assert ("This is poor" in first.note) is (float(ratio.removesuffix(" dB")) < POOR_DB)


def test_a_painted_mask_is_kept_beside_the_pictures(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    layer = Image.new("RGBA", (512, 512))
    layer.paste((255, 60, 60, 255), (0, 0, 256, 512))
    layer.save(tmp_path / "layer.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 1}
    asked |= {"painted": {"layers": [str(tmp_path / "layer.png")]}, "target_prompts": "a dog"}
    made = studio.make_edit("one", asked, quiet)
    assert "--mask-file painted-mask.png" in made.command
    kept = Path(made.files[-2])
    assert kept.name == "painted-mask.png"
    stated = json.loads(made.recipe)["inputs"][1]
    assert (stated["name"], stated["hash"]) == ("painted-mask.png", file_hash(kept))


def test_a_click_shows_where_the_target_looked(studio: Studio) -> None:
    asked = values(studio, target_prompts="a dog\na bird", steps=3)
    made = studio.make_set("one", asked, quiet)
    found = studio.watched("one", "set")
    assert found is not None
    assert studio.watched("two", "set") is None
    assert found.targets() == ("target 1", "target 2")
    assert found.view.steps == (1, 2)
    assert found.view.layers[0] == asked["start_layer"]
    with Image.open(found.clickable(1)) as large, Image.open(made.files[4]) as own:
        factor = large.width // own.width
        assert (factor > 1, large.width) == (True, factor * own.width)
    figures = [
        found.figure((x, 5), target=1, step=step, layer=None)
        for x, step in ((5, None), (large.width - 1, 2))
    ]
    assert figures[0] != figures[1]
    recipe = Recipe.parse(read_recipe(figures[1]))
    assert (recipe.kind, recipe.request["target"]) == ("attention", 2)
    assert recipe.request["points"] == [[own.width - 1, 5 // factor]]
    with pytest.raises(ConfigError, match="captured were steps 1, 2"):
        found.figure((5, 5), target=1, step=0, layer=None)
    with pytest.raises(ConfigError, match="outside"):
        found.figure((large.width, 5), target=1, step=None, layer=None)
    studio.make_set("one", values(studio, method="style-aligned"), quiet)
    assert studio.watched("one", "set") is None, "its targets look elsewhere"


def test_an_edit_is_watched_too(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "a.png")
    asked = {one.name: one.value for one in edit_fields(studio.limits)}
    asked |= {"picture": str(tmp_path / "a.png"), "steps": 2, "start_step": 1}
    studio.make_edit("one", asked | {"target_prompts": "a dog"}, quiet)
    found = studio.watched("one", "edit")
    assert found is not None
    figure = found.figure((300, 200), target=0, step=1, layer=15)
    assert Recipe.parse(read_recipe(figure)).request["of"] == "edit"
    other = asked | {"target_prompts": "a dog", "method": "fixed-seed"}
    assert "--method fixed-seed" in studio.make_edit("one", other, quiet).command
    assert studio.watched("one", "edit") is None


def test_a_run_whose_visitor_leaves_meanwhile_keeps_nothing(studio: Studio) -> None:
    def leave(done: int, total: int) -> None:
        if done == total:  # after the last step nothing stops it any more
            studio.leave("leaver")

    with pytest.raises(Stopped):
        studio.make_set("leaver", values(studio), leave)
    left = [path for path in studio._root.rglob("*.png") if "leaver" in str(path)]
    assert left == []
    assert "leaver" not in studio._visits
    assert studio.make_set("leaver", values(studio), quiet).files  # a line that was cut goes on


def test_a_picture_of_one_s_own_is_set_in_motion(model: LoadedModel, tmp_path: Path) -> None:
    network, photo = tmp_path / "pose", tmp_path / "photo.png"
    tiny_models.sd_controlnet().controlnet.save_pretrained(network)
    save_png(photo, random_picture().resize((64, 64)))
    studio = Studio(model=model, words="models/tiny", networks={"pose": str(network)})
    shown = animate_fields(studio.limits)
    asked = {one.name: one.value for one in shown}
    small = {"steps": 2, "start_step": 1, "frames": 2, "source_prompt": "", "inversion": "virtual"}
    asked |= {**small, "photo": str(photo)}
    seen: list[int] = []
    try:
        made = studio.make_animation("one", asked, lambda done, _: seen.append(done))
        kept = studio._visits["one"].inverted
        studio.make_animation("one", asked | {"frames": 3}, quiet)
        assert studio._visits["one"].inverted is kept  # one picture, inverted once
        recipe = Recipe.parse(read_recipe(Path(made.files[-1])))
        assert (recipe.kind, recipe.request["of"]) == ("animate", "edit")
        assert recipe.inputs[0].name == "photo.png"
        assert len(made.shown) == 3  # the source and two frames
        assert made.command.startswith("masactrl animate photo.png ")
        opened = studio.open_result(Path(made.files[-1]), {"animate": [one.name for one in shown]})
    finally:
        studio.close()
    assert "choose photo.png again" in opened.told
    again = asked | opened.values
    assert again["inversion"] == "virtual"
    assert {name for name in asked if again[name] != asked[name]} <= {"width", "height"}
