"""The Dockerfile, read: no docker runs where tests run. hadolint looks at it too where it is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from masactrl.cli.root import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def instructions() -> list[list[tuple[str, str]]]:
    """The instructions of every stage, lines joined and comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest.strip()))
    return stages


BUILD, RUN = instructions()


def test_what_is_copied_is_there_and_let_through() -> None:
    allowed = (ROOT / ".dockerignore").read_text().split()
    assert allowed[0] == "*"
    copied = [word for name, rest in BUILD if name == "COPY" for word in rest.split()[:-1]]
    assert copied
    for one in copied:
        assert (ROOT / one).exists(), one
        assert f"!{one}" in allowed, one
    # What the build of the package asks for.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_the_extras_exist_and_cpu_is_the_usual() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", TEXT)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert ("ARG", "DEVICE=cpu") in BUILD
    (python,) = {rest.split(":")[1].split("-")[0] for name, rest in (BUILD[0], RUN[0])}
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]


def test_it_does_not_run_as_root_and_says_how_it_is() -> None:
    names = [name for name, _ in RUN]
    told = dict(RUN)
    assert told["USER"].isdigit()
    assert int(told["USER"]) > 0
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert json.loads(told["VOLUME"]) == ["/models"]
    assert "HF_HOME=/models" in told["ENV"]
    (port,) = re.findall(r"127\.0\.0\.1:(\d+)/", told["HEALTHCHECK"])
    assert port == told["EXPOSE"]
    words = json.loads(told["CMD"])
    assert json.loads(told["ENTRYPOINT"]) == ["masactrl"]
    assert words[words.index("--port") + 1] == port
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    known = {o for one in command.params for o in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    found = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
