"""Layouts in studies: every cell and every method that can take one has it; words and rerun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from PIL import Image

from masactrl import GenerateRequest, compare_generated, generate
from masactrl.cli import main
from masactrl.errors import ConfigError
from masactrl.models import LoadedModel, load_pipeline
from masactrl.pictures.images import read_recipe
from masactrl.pictures.input import read_picture
from masactrl.runs.layout import Layout

pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")
PROMPTS = {"source_prompt": "a cat standing", "target_prompts": ("a cat running",), "steps": 3}


@dataclass(frozen=True)
class Place:
    """A folder with a ControlNet, a photo and a layout."""

    folder: Path
    model: Path

    @property
    def words(self) -> list[str]:
        net = f"x={self.folder}/net"
        layout = ["--layout", f"x={self.folder}/lay.png", "--layout-model", net]
        return ["--model", str(self.model), "--steps", "3", *layout]

    def layout(self) -> tuple[Layout, ...]:
        picture = read_picture(self.folder / "lay.png")
        return (Layout(kind="x", pictures=(picture,), model=str(self.folder / "net")),)

    def again(self, made: Path, *inputs: str) -> int:
        given = [word for name in inputs for word in ("--input", f"{self.folder}/{name}.png")]
        own = ["--model", str(self.model), "--layout-model", f"x={self.folder}/net"]
        return main(["rerun", str(made), *own, *given])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Place:
    folder = tmp_path_factory.mktemp("studies")
    tiny_models.sd_controlnet().controlnet.save_pretrained(folder / "net")
    for number, name in enumerate(("photo", "lay")):
        values = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{name}.png")
    return Place(folder, model_folder)


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> LoadedModel:
    return load_pipeline(model_folder, device="cpu")


def apart(one: Image.Image, other: Image.Image) -> float:
    first, second = (np.asarray(each.convert("RGB")).astype(int) for each in (one, other))
    return float(np.abs(first - second).mean())


def test_a_cell_of_a_sweep_is_the_run_with_its_layout(
    place: Place, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = ["start-step=1,2", "start-layer=10"]
    source = ["--source", "a cat standing", "--to", "a cat running"]
    assert main(["sweep", *axes, *source, *place.words, "-o", str(tmp_path)]) == 0
    cell = Image.open(tmp_path / "target1-S2-L10.png")
    for layouts, near in ((place.layout(), True), ((), False)):
        request = GenerateRequest(**PROMPTS, start_step=2, start_layer=10, layouts=layouts)  # type: ignore[arg-type]
        alone = generate(loaded, request).targets[0].controlled
        assert (apart(cell, alone) < 0.5) == near
    capsys.readouterr()
    assert place.again(tmp_path / "target1-S2-L10.png", "lay") == 0
    assert "same to the bit" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "sweep.png"), "--cli"]) == 0
    assert "--layout x=lay.png --layout-model x=net" in capsys.readouterr().out


def test_a_sweep_and_a_comparison_of_a_picture(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(place.folder / "photo.png")
    words = ["--to", "a cat running", *place.words]
    assert main(["sweep", photo, "start-step=1", *words, "-o", str(tmp_path / "s")]) == 0
    methods = ["--method", "sdedit", "--method", "masactrl"]
    assert main(["compare", photo, *words, *methods, "-o", str(tmp_path / "c")]) == 0
    for made in (tmp_path / "s" / "sweep.png", tmp_path / "c" / "masactrl.png"):
        recipe: Any = read_recipe(made)
        assert [one["name"] for one in recipe["inputs"]] == ["photo.png", "lay.png"]
        capsys.readouterr()
        assert place.again(made, "photo", "lay") == 0
        assert "same to the bit" in capsys.readouterr().out
        assert main(["info", str(made), "--cli"]) == 0
        assert "--layout x=lay.png" in capsys.readouterr().out


def test_a_comparison_says_which_method_took_no_layout(
    place: Place, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [w for name in ("sdedit", "masactrl", "plug-and-play") for w in ("--method", name)]
    words = ["compare", "a cat standing", "--to", "a cat running", *methods, *place.words]
    assert main([*words, "-o", str(tmp_path), "--json"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    notes = {one["method"]: one["note"] for one in columns}
    assert list(notes) == ["source", "fixed-seed", "masactrl", "plug-and-play", "sdedit"]
    assert {name for name, note in notes.items() if note} == {"sdedit"}
    led = compare_generated(
        loaded,
        GenerateRequest(**PROMPTS, layouts=place.layout()),  # type: ignore[arg-type]
        methods=("masactrl", "plug-and-play"),
    )
    plain = compare_generated(
        loaded,
        GenerateRequest(**PROMPTS),  # type: ignore[arg-type]
        methods=("masactrl", "plug-and-play"),
    )
    assert led.columns[0].image.tobytes() == plain.columns[0].image.tobytes()
    for one, other in zip(led.columns[1:], plain.columns[1:], strict=True):
        assert one.image.tobytes() != other.image.tobytes()
    assert place.again(tmp_path / "plug-and-play.png", "lay") == 0
    assert "same to the bit" in capsys.readouterr().out


def test_methods_that_take_none_are_not_compared_alone(place: Place) -> None:
    request: Any = GenerateRequest(**PROMPTS, layouts=place.layout())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sdedit, imagic take none; add a method"):
        compare_generated(None, request, methods=("sdedit", "imagic"))  # type: ignore[arg-type]


def test_an_ablation_has_its_layout(place: Place, tmp_path: Path) -> None:
    words = ["bench", "ablation", "a cat standing", "--to", "a cat running", *place.words]
    assert main([*words, "-o", str(tmp_path / "led")]) == 0
    left = words[: words.index("--layout")]
    assert main([*left, "-o", str(tmp_path / "plain")]) == 0
    one, other = (Image.open(tmp_path / k / "ablation-places.png") for k in ("led", "plain"))
    assert apart(one, other) > 0.5
