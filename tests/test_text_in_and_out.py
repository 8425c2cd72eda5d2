"""Text files with marks and Windows line ends; prompts of any letters on a command line."""

from __future__ import annotations

import codecs
import json
import shlex
import subprocess
from pathlib import Path

import pytest

from masactrl.cli.job import _toml
from masactrl.errors import ConfigError
from masactrl.models import read_preset
from masactrl.pictures.files import read_text
from masactrl.rerun.command_line import command_words, shell_line
from masactrl.runs.recipe import find_recipe

JOB = 'source = "a cat"\r\nto = ["a löwe\\nrunning"]\r\nsteps = 2\r\n'


@pytest.mark.parametrize(
    "content",
    [
        JOB.encode(),
        codecs.BOM_UTF8 + JOB.encode(),
        JOB.encode("utf-16"),
        codecs.BOM_UTF16_BE + JOB.encode("utf-16-be"),
        JOB.encode("utf-32"),
    ],
    ids=["plain", "utf-8 mark", "utf-16", "utf-16 big endian", "utf-32"],
)
def test_a_job_is_read_whatever_it_begins_with(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    assert _toml(path) == {"source": "a cat", "to": ["a löwe\nrunning"], "steps": 2}
    assert "\r" not in read_text(path)


def test_text_of_another_encoding_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes('source = "löwe"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="is no TOML file"):
        _toml(path)


def test_recipes_and_presets_with_a_mark_are_read(tmp_path: Path) -> None:
    sidecar = tmp_path / "sheet.json"
    sidecar.write_bytes(codecs.BOM_UTF8 + json.dumps({"schema": 2}).encode())
    assert find_recipe(sidecar) == {"schema": 2}
    preset = {"steps": 4, "guidance_scale": 2.0, "start_step": 1, "start_layer": 0}
    preset |= {"height": 64, "width": 64}
    (tmp_path / "masactrl.json").write_bytes(codecs.BOM_UTF8 + json.dumps(preset).encode())
    found = read_preset(tmp_path)
    assert found is not None
    assert found[1].steps == 4


PROMPTS = [
    "a cat\nin the snow",
    "a\tcat",
    'it\'s a "cat"',
    r"back\slash \n",
    "$HOME `id` $(id) !! *",
    "--steps 3",
    "-",
    "猫 — löwe 🐈",
    "a cat ; rm -rf x # no",
    "",
    " leading and trailing ",
    "a\u00a0cat\u200b",
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_a_shell_reads_back_what_was_asked(prompt: str) -> None:
    words = command_words("generate", [prompt], [("to", prompt), ("seed", "3")])
    line = shell_line(["printf", "%s\\0", *words])
    assert shlex.split(line)[2:] == words
    told = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    assert told.decode().split("\0")[:-1] == words


@pytest.mark.parametrize("letter", ["\x1b", "\r", "\x00", "\x7f", "\x9b", "\u202e", "\ud800"])
def test_what_no_line_can_show_is_said(letter: str) -> None:
    with pytest.raises(ConfigError, match="masactrl rerun"):
        shell_line(["masactrl", "generate", f"a cat{letter}"])
