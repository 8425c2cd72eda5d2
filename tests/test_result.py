from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from masactrl import __version__
from masactrl.errors import OutputError
from masactrl.pictures.images import read_recipe
from masactrl.runs.request import ResolvedRequest
from masactrl.runs.result import GenerateResult, TargetResult, picture_names, prepare_folder

NAMES = (
    "source",
    "target1-uncontrolled",
    "target1-controlled",
    "target2-uncontrolled",
    "target2-controlled",
)


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (192, 192), (level, level, level))


@pytest.fixture
def result() -> GenerateResult:
    return GenerateResult(
        source=picture(10),
        targets=(
            TargetResult(prompt="a dog", uncontrolled=picture(20), controlled=picture(30)),
            TargetResult(prompt="a fox", uncontrolled=picture(40), controlled=picture(50)),
        ),
        request=ResolvedRequest(
            source_prompt="a cat",
            target_prompts=("a dog", "a fox"),
            seed=7,
            steps=50,
            guidance_scale=7.5,
            negative_prompt="",
            height=192,
            width=192,
            start_step=4,
            start_layer=10,
            form="replace",
            strength=1.0,
        ),
        seconds=1.5,
        model="tiny",
        device="cpu",
        dtype="float32",
    )


def test_every_picture_has_its_name(result: GenerateResult) -> None:
    assert picture_names(2) == NAMES
    found = {name: one.getpixel((0, 0)) for name, one in result.pictures().items()}
    assert found == dict(zip(NAMES, [(v, v, v) for v in (10, 20, 30, 40, 50)], strict=True))


def test_the_sheet_has_a_row_per_target(result: GenerateResult) -> None:
    sheet = result.to_sheet()
    levels = [colour[0] for _, colour in sheet.getcolors(maxcolors=4096) or []]
    assert {10, 20, 30, 40, 50} <= set(levels)
    assert sheet.width == 4 * 8 + 3 * 192
    assert sheet.height > 2 * 192


def test_a_notebook_shows_the_sheet(result: GenerateResult) -> None:
    assert result._repr_png_().startswith(b"\x89PNG")


def test_everything_is_saved_with_its_recipe(result: GenerateResult, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    paths = result.save(folder)
    assert [path.name for path in paths] == [f"{name}.png" for name in (*NAMES, "sheet")]
    assert sorted(folder.iterdir()) == sorted([*paths, folder / "sheet.json"])
    recipe = read_recipe(folder / "target1-controlled.png")
    assert recipe is not None
    assert recipe["picture"] == "target1-controlled"
    assert recipe["masactrl"] == __version__
    assert recipe["model"]["name"] == "tiny"
    assert recipe["request"]["target_prompts"] == ["a dog", "a fox"]
    assert set(recipe["versions"]) == {"python", "torch", "diffusers", "transformers"}
    assert result.recipe("source").to_json() == read_recipe(folder / "source.png")
    assert json.loads((folder / "sheet.json").read_text()) == read_recipe(folder / "sheet.png")


def test_other_tools_find_prompt_and_settings(result: GenerateResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    with Image.open(tmp_path / "target2-controlled.png") as image:
        image.load()
        prompt, settings = image.info["parameters"].splitlines()
    assert prompt == "a fox"
    for words in ("Steps: 50", "CFG scale: 7.5", "Seed: 7", "Size: 192x192", "Model: tiny"):
        assert words in settings
    with Image.open(tmp_path / "sheet.png") as image:
        image.load()
        assert "parameters" not in image.info  # it shows more than one prompt


def test_without_metadata_there_are_pixels_only(result: GenerateResult, tmp_path: Path) -> None:
    paths = result.save(tmp_path, metadata=False)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert image.info == {}


def test_nothing_is_replaced_unless_allowed(result: GenerateResult, tmp_path: Path) -> None:
    (tmp_path / "source.png").write_text("precious")
    with pytest.raises(OutputError, match=r"holds source\.png already"):
        result.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source.png"]
    result.save(tmp_path, overwrite=True)
    assert read_recipe(tmp_path / "source.png") is not None


def test_a_folder_that_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(OutputError, match="cannot be written to"):
            prepare_folder(tmp_path / folder, ["source"], overwrite=True)
    prepare_folder(tmp_path / "a" / "b", ["source"], overwrite=False)
    assert list((tmp_path / "a" / "b").iterdir()) == []
