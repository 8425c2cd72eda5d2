from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from masactrl.errors import ConfigError
from masactrl.models import ModelPreset, default_preset, read_preset, write_preset

FIELDS: dict[str, Any] = {
    "steps": 30,
    "guidance_scale": 5.0,
    "start_step": 3,
    "start_layer": 8,
    "height": 128,
    "width": 192,
}


def write(folder: Path, **fields: object) -> None:
    (folder / "masactrl.json").write_text(json.dumps(fields))


def test_families_have_the_published_settings() -> None:
    sd = default_preset("sd", height=512, width=512)
    assert (sd.steps, sd.start_step, sd.start_layer, sd.guidance_scale) == (50, 4, 10, 7.5)
    xl = default_preset("sdxl", height=1024, width=1024)
    assert (xl.steps, xl.start_step, xl.start_layer, xl.guidance_scale) == (50, 4, 44, 5.0)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    preset = ModelPreset(**FIELDS, scheduler="model")
    write_preset(tmp_path, "puppets", preset)
    assert read_preset(tmp_path) == ("puppets", preset)


def test_a_folder_may_have_none(tmp_path: Path) -> None:
    assert read_preset(tmp_path) is None


def test_the_family_may_be_left_to_the_pipeline(tmp_path: Path) -> None:
    write(tmp_path, **FIELDS)
    assert read_preset(tmp_path) == (None, ModelPreset(**FIELDS))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", "30"),
        ("guidance_scale", 0.5),
        ("start_step", -1),
        ("start_layer", 1.5),
        ("height", 100),
        ("scheduler", "euler"),
        ("start_stepp", 4),
        ("family", "dit"),
        ("schema", 2),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, field: str, value: object) -> None:
    write(tmp_path, **{**FIELDS, field: value})
    with pytest.raises(ConfigError, match=rf"masactrl\.json cannot be used: {field}: "):
        read_preset(tmp_path)


def test_a_missing_value_and_a_broken_file_are_named(tmp_path: Path) -> None:
    write(tmp_path, **{name: FIELDS[name] for name in FIELDS if name != "steps"})
    with pytest.raises(ConfigError, match="steps: Field required"):
        read_preset(tmp_path)
    (tmp_path / "masactrl.json").write_text("{")
    with pytest.raises(ConfigError, match="file: Invalid JSON"):
        read_preset(tmp_path)
