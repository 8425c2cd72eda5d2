from __future__ import annotations

import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masactrl.errors import ConfigError
from masactrl.models import LoadedModel
from masactrl.pictures.images import save_png
from masactrl.rerun import kinds as again
from masactrl.rerun.kinds import (
    RerunInputs,
    command_line,
    compare,
    hub_id,
    kind_of,
    request_of,
    rerun_recipe,
)
from masactrl.runs.generate import generate
from masactrl.runs.recipe import InputStated, LoraStated, ModelStated, Recipe, find_recipe
from masactrl.runs.request import GenerateRequest

EMBEDDED = ModelStated(name="puppets", kind="embedded")


def recipe(**change: Any) -> Recipe:
    values: dict[str, Any] = {
        "kind": "generate",
        "picture": "source",
        "model": EMBEDDED,
        "device": "cpu",
        "dtype": "float32",
        "request": {"source_prompt": "a cat", "target_prompts": ["a dog"], "seed": 7},
    }
    return Recipe(**values | change)


def test_what_is_written_is_read_back() -> None:
    lora = LoraStated(name="a.safetensors", scale=0.8, hash="00")
    one = recipe(model=dataclasses.replace(EMBEDDED, loras=(lora,)))
    assert Recipe.parse(json.loads(json.dumps(one.to_json()))) == one
    assert next(iter(one.to_json())) == "schema"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"extra": 1}, "not known: extra"),
        ({"device": 5}, "device"),
        ({"model": {"name": "a", "path": "/etc"}}, "path"),
        ({"request": "rm"}, "request"),
        ({"schema": 3}, "update masactrl"),
        ({"schema": True}, "early version"),
        ({"schema": "2"}, "no schema"),
    ],
)
def test_what_is_no_recipe_is_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Recipe.parse({**recipe().to_json(), **change})


@pytest.mark.parametrize(
    "change",
    [{"steps": "50"}, {"seed": -1}, {"sead": 1}, {"target_prompts": "a dog"}, {"form": "x"}],
)
def test_a_request_from_a_picture_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        request_of({"source_prompt": "a cat", "target_prompts": ["a dog"], **change})


def test_an_unknown_kind_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"kind 'film'; this version can make again: generate"):
        kind_of(recipe(kind="film"))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (EMBEDDED, "puppets"),
        (ModelStated(name="owner/name", kind="hub"), "owner/name"),
        (ModelStated(name="here/model", kind="hub"), None),
        (ModelStated(name="/etc", kind="folder"), None),
        (ModelStated(name="mine", kind="file"), None),
        (ModelStated(name="/etc", kind="embedded"), None),
    ],
)
def test_a_recipe_never_chooses_a_path(
    model: ModelStated, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id(recipe(model=model)) == expected


def test_the_command_says_everything_and_survives_the_shell() -> None:
    request = {
        "source_prompt": "-a 'quoted' $cat",
        "target_prompts": ["a dog; rm -rf"],
        "method": "plug-and-play",
        "method_options": [["features", 0.6]],
        "start_step": 4,
        "negative_prompt": "-x",
    }
    stated = ModelStated(name="owner/name", kind="hub", revision="abc")
    line = command_line(recipe(model=stated, request=request))
    words = shlex.split(line)
    assert words[:2] == ["masactrl", "generate"]
    assert words[-2:] == ["--", "-a 'quoted' $cat"]
    for pair in (("--to", "a dog; rm -rf"), ("--method-option", "features=0.6"),
                 ("--model", "owner/name"), ("--revision", "abc")):  # fmt: skip
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert "--negative=-x" in words
    assert "--start-step" not in words  # MasaCtrl's, and another method ran


REQUEST = {"source_prompt": "a cat", "target_prompts": ["a dog"], "steps": 9}
EDIT = {
    "target_prompts": ["a dog"], "steps": 9, "guidance_scale": 3.0, "negative_prompt": None,
    "start_step": 1, "start_layer": 10, "form": "replace", "strength": 1.0,
    "keep_background": False, "compare": True, "mode": "cached", "keep": "memory", "half": True,
    "masks": None, "inversion": {"method": "direct"},
}  # fmt: skip
AXES = {"start_step": [1, 2], "start_layer": [9]}
GRID = {name: one for name, one in EDIT.items() if not name.startswith("start_")}
OF_KIND: dict[str, dict[str, Any]] = {
    "generate": {"request": REQUEST},
    "edit": {"request": EDIT, "inputs": True},
    "compare": {"request": {**REQUEST, "methods": ["masactrl"], "options": {}}},
    "sweep": {"request": {"of": "generate", "axes": AXES, "run": REQUEST}, "picture": "sweep"},
    "auto": {
        "request": {"axes": AXES, "run": GRID, "scores": [[1, 9, "0.1"], [2, 9, "0.2, chosen"]],
                    "judges": {"judge_clip": "own/er"}},
        "inputs": True,
        "picture": "auto",
    },
    "attention": {
        "request": {"of": "edit", "points": [[4.0, 5.0]], "target": 1, "step": None, "layer": None,
                    "run": EDIT},
        "inputs": True,
    },
    "animate": {
        "request": {"run": REQUEST, "poses": "../mine", "fps": 8.0, "batch": 4,
                    "layout": {"kind": "pose", "scale": 0.5, "begin": 0.0, "end": 0.5,
                               "model": "net", "local": True, "files": 3, "source": False}},
        "inputs": True,
    },
    "demo": {"request": {"rows": [REQUEST]}},
}  # fmt: skip


@pytest.mark.parametrize("kind", again.KINDS)
@pytest.mark.parametrize("of", ["embedded", "hub", "folder"])
def test_the_command_of_every_kind_is_one(kind: str, of: str) -> None:
    """Every option is one of the command's own, which another test would not see."""
    import typer

    from masactrl.cli.root import app

    inputs = (InputStated(name="../photo.png", hash="0"),) if "inputs" in OF_KIND[kind] else ()
    name, revision = {"hub": ("owner/name", "0" * 40)}.get(of, ("puppets", None))
    stated = ModelStated(name="../mine" if of == "folder" else name, kind=of, revision=revision)
    one = recipe(kind=kind, **OF_KIND[kind] | {"inputs": inputs, "model": stated})
    program, verb, *words = shlex.split(command_line(one))
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert program == "masactrl"
    context = command.make_context(verb, words)  # refuses what is no option
    assert ".." not in " ".join(words)
    told = context.params.get("model")
    if kind != "demo":  # which the embedded model alone makes
        asked_of = {"embedded": ("puppets", None), "hub": ("owner/name",), "folder": ("mine",)}
        assert told in (asked_of[of] if kind != "attention" else (*asked_of[of], None))
    if of == "hub" and kind == "attention":
        assert told is None, "with it the commit of the recipe would be lost"
    if kind == "auto":
        assert (context.params["auto"], context.params["judge_clip"]) == (True, "own/er")
        assert context.params["start_step"] is None


@pytest.mark.parametrize("revision", ["../../etc", "main", "refs/pr/1", ""])
def test_a_recipe_s_revision_is_a_commit(revision: str) -> None:
    """The Hub's library looks revisions up as files."""
    stated = ModelStated(name="owner/name", kind="hub", revision=revision)
    with pytest.raises(ConfigError, match="is no commit"):
        hub_id(recipe(model=stated))
    assert hub_id(recipe(model=dataclasses.replace(stated, revision="0123abc" * 5)))


@pytest.mark.parametrize("picture", ["source", "target1-controlled", "sheet"])
def test_a_run_is_made_again_to_the_bit(picture: str, model: LoadedModel, tmp_path: Path) -> None:
    request = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), seed=3, steps=2, start_step=1,
        form="union", height=16, width=24,
    )  # fmt: skip
    generate(model, request).save(tmp_path)
    found = Recipe.parse(find_recipe(tmp_path / f"{picture}.png"))
    steps: list[int] = []
    after = rerun_recipe(
        model, found, RerunInputs(on_step=lambda record: steps.append(record.step))
    )
    with Image.open(tmp_path / f"{picture}.png") as before:
        assert compare(before, after).equal
    assert steps == [0, 1]
    assert kind_of(found).steps(found) == 2
    with pytest.raises(ConfigError, match="its run makes source, target1"):
        rerun_recipe(model, found.of("target9"), RerunInputs())


def test_the_recipe_names_the_model_by_its_weights(model: LoadedModel) -> None:
    made = generate(
        model, GenerateRequest(source_prompt="a", target_prompts=("b",), steps=2, start_step=0)
    )
    stated = made.recipe("source").model
    assert (stated.name, stated.kind) == ("tiny", "folder")
    assert stated.weights == model.origin.weights
    assert stated.weights is not None
    assert "/" not in json.dumps(made.recipe("source").to_json()["model"])


def test_how_close_two_pictures_are() -> None:
    black = Image.new("RGB", (2, 2))
    other = black.copy()
    other.putpixel((0, 0), (3, 0, 0))
    same, near = compare(black, black), compare(black, other)
    assert (same.equal, same.psnr) == (True, math.inf)
    assert (near.equal, near.largest, near.changed) == (False, 3, 0.25)
    assert near.psnr == pytest.approx(10 * math.log10(255**2 / (9 / 12)))
    assert "at most 3 of 255" in near.sentence()
    with pytest.raises(ConfigError, match="resized or cropped"):
        compare(black, Image.new("RGB", (3, 2)))


def test_sidecars_are_read_with_care(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, sentence in (
        ("[]", "no recipe"),
        ("{", "cannot be read"),
        (" " * 2**21, "too large"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            find_recipe(path)
    with pytest.raises(ConfigError, match="There is no file"):
        find_recipe(tmp_path / "b.json")
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    with pytest.raises(ConfigError, match="carries no recipe"):
        find_recipe(tmp_path / "a.png")


def test_every_kind_is_complete() -> None:
    for kind in again.KINDS.values():
        assert callable(kind.words)
        assert callable(kind.rerun)
        assert callable(kind.steps)
