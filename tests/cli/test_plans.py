"""--plan says what would be made and makes nothing; --config takes words as the command line."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masactrl.cli import main, sweep_run

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def shared(model_folder: Path, tmp_path: Path) -> list[str]:
    Image.new("RGB", (60, 44), (200, 30, 30)).save(tmp_path / "photo.png")
    words = ["--to", "a dog", "--model", str(model_folder), "--device", "cpu", "--steps", "2"]
    return [*words, "-o", str(tmp_path / "out")]


@pytest.mark.parametrize("photo", [False, True])
def test_a_sweep_says_its_cost_and_makes_nothing(
    photo: bool,
    shared: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = [str(tmp_path / "photo.png")] if photo else ["--source", "a cat", "--size", "16x16"]
    words = ["sweep", *source, "start-layer=9,12", *shared]
    assert main([*words, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["cells"], plan["start_layer"], plan["steps"]) == (2, [9, 12], 2)
    assert plan["pictures"][:2] == ["sweep.png", f"target1-S{plan['start_step'][0]}-L9.png"]
    assert not (tmp_path / "out").exists()
    told: list[Any] = []
    monkeypatch.setattr(sweep_run, "progress", lambda *_: nullcontext(told.append))
    assert main(words) == 0
    assert len(told) == plan["steps_in_all"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == set(plan["pictures"])
    capsys.readouterr()
    assert main([*words, "--plan"]) == 0
    assert capsys.readouterr().out.endswith("Nothing was made.\n")
    assert main([*words, "start-step=2", "--plan"]) == 2
    assert "0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("photo", [False, True])
def test_a_comparison_says_its_cost_and_makes_nothing(
    photo: bool, shared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [str(tmp_path / "photo.png")] if photo else ["a cat", "--size", "16x16"]
    words = ["compare", *source, *shared, "--method", "masactrl", "--method", "plug-and-play"]
    assert main([*words, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["methods"] == ["masactrl", "plug-and-play"]
    assert plan["steps_in_all"] >= 4
    assert ("reconstruction.png" in plan["pictures"]) is photo
    assert not (tmp_path / "out").exists()
    assert main([*words, "--plan"]) == 0
    assert "methods: masactrl, plug-and-play" in capsys.readouterr().out


def test_axes_may_stand_in_a_file(
    shared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.toml"
    job.write_text('words = ["start-step=0-1"]\nsource = "a cat"\nsize = "16x16"\nsteps = 9\n')
    assert main(["sweep", *shared, "--config", str(job), "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["start_step"], plan["steps"]) == ([0, 1], 2), "a flag wins over the file"


def test_pixels_only_keeps_nothing_of_a_photo_s_camera(
    shared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of somebody"
    Image.new("RGB", (60, 44), (200, 30, 30)).save(
        tmp_path / "a.jpg", exif=exif, comment=b"secret", dpi=(72, 72)
    )
    assert main(["edit", str(tmp_path / "a.jpg"), *shared, "--no-metadata"]) == 0
    pictures = list((tmp_path / "out").iterdir())
    assert len(pictures) == 5
    for path in pictures:
        assert path.suffix == ".png"
        with Image.open(path) as image:
            image.load()
            assert image.info == {}
