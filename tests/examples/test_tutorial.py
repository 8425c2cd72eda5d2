"""The ten-minute tutorial runs as it stands, in its order, with fewer steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from masactrl.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
COMMAND = r"^ {4}(masactrl (?:[^\n]*\\\n)*[^\n]*)"
SMALL = ["--size", "128x128"]
FEWER = {
    "generate": ["--steps", "2", *SMALL],
    "edit": ["--steps", "2"],
    "sweep": ["--steps", "5", *SMALL],  # it names step 4
}


def parts() -> list[tuple[str, str]]:
    """Commands and blocks of Python in the order of the page."""
    found = re.finditer(rf"{COMMAND}|^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [("python", one[2]) if one[2] else ("command", one[1]) for one in found]


def test_it_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    ran = []
    for kind, text in parts():
        if kind == "python":
            fewer = text.replace("steps=20", "steps=3").replace("32, 32", "16, 16")
            exec(fewer.replace("seed=5,", "seed=5, width=128, height=128,"), names)
            continue
        words = shlex.split(text.replace("\\\n", " ").replace("110,150", "55,75"))[1:]
        words += FEWER.get(words[0], [])
        assert main(words) == 0, text
        ran.append(words[0])
    assert ran == ["doctor", "generate", "info", "rerun", "sweep", "edit", "attention"]
    made = ["set/sheet.png", "grid/sweep.png", "edit/sheet.png", "look/attention.png"]
    made += ["again.png", "python/fox.png"]
    assert all(Path(one).is_file() for one in made)
