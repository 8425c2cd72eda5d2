"""The documentation's links resolve, its site knows every page, its commands exist."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import masactrl
from masactrl.cli.root import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name(page)} links to {target}"
        if page.is_relative_to(DOCS):
            assert linked.is_relative_to(DOCS), f"{target} is not part of the site"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads
            }
            assert anchor in slugs, f"{name(page)} links to {target}"


def test_the_site_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r": (\S+\.md)$", text, re.MULTILINE))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_the_guides_that_people_ask_for_are_there() -> None:
    guides = {path.stem for path in (DOCS / "guides").glob("*.md")}
    asked = {"own_checkpoint", "real_photo", "masks", "choosing_s_and_l", "lora_and_controlnet"}
    assert asked <= guides
    assert "instruction-following editor" in (DOCS / "limits.md").read_text()


def commands(text: str) -> list[list[str]]:
    """Return the words of every `masactrl ...` in indented or fenced shell lines."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^(?: {4}|\$ )[^\n#`]*?(masactrl [a-z][^\n#;]*)", joined, re.MULTILINE)
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", joined, re.MULTILINE | re.DOTALL):
        if language in ("", "bash", "console", "sh", "shell"):
            lines += re.findall(r"^(?:\$ )?(masactrl [a-z][^\n#;]*)", block, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def mentions(text: str) -> list[list[str]]:
    """Return the words of every `masactrl ...` in the middle of a sentence."""
    found = re.findall(r"`(masactrl [a-z][^`\n]*)`", FENCE.sub("", text))
    return [shlex.split(one) for one in found if "..." not in one]


def found_command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and the words after its name."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    return command, rest


def options(command: Any) -> set[str]:
    own = {
        name
        for one in command.params
        for name in (*one.opts, *one.secondary_opts)
        if name[0] == "-"
    }
    below = [options(one) for one in getattr(command, "commands", {}).values()]
    return own.union({"--help", "-h"}, *below)


CASES = [(name(page), words) for page in PAGES for words in commands(page.read_text())]
MENTIONS = [(name(page), words) for page in PAGES for words in mentions(page.read_text())]
shown = {"ids": lambda one: one.rsplit("/", 1)[-1] if isinstance(one, str) else " ".join(one)[:60]}


@pytest.mark.parametrize(("page", "words"), CASES, **shown)
def test_commands_in_the_text_can_be_run(page: str, words: list[str]) -> None:
    command, rest = found_command(words)
    assert not getattr(command, "commands", {}), f"{page}: {words}"
    parser = command.make_parser(typer.Context(command, info_name=words[1]))
    # Unknown options and options without their value raise here.
    given, left, _ = parser.parse_args(args=list(rest))
    assert not left, f"{page}: {left} are too many words"
    for parameter in command.params:
        if parameter.required and not {"--config", "--help", "--like"} & {*rest}:
            value = given.get(parameter.name)
            assert isinstance(value, (str, list, tuple)), f"{page}: {parameter.name} is missing"
            assert value, f"{page}: {parameter.name} is missing"


@pytest.mark.parametrize(("page", "words"), MENTIONS, **shown)
def test_commands_named_in_a_sentence_exist(page: str, words: list[str]) -> None:
    command, rest = found_command(words)
    assert command is not typer.main.get_command(app), f"{page}: {words}"
    known = options(command)
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{page}: {' '.join(words)}"


def test_options_named_in_a_sentence_exist() -> None:
    known = options(typer.main.get_command(app))
    for page in PAGES:
        for option in re.findall(r"`(--[a-z][\w-]*)", FENCE.sub("", page.read_text())):
            assert option in known or option == "--strict", f"{name(page)}: {option}"


def test_the_text_shows_enough_to_be_worth_checking() -> None:
    assert len(CASES) > 20
    verbs = {words[1] for _, words in CASES + MENTIONS}
    assert verbs >= {"app", "compare", "doctor", "edit", "generate", "info", "rerun", "sweep"}


# The reference.

REFERENCE = sorted((DOCS / "reference").glob("*.md"))
SHOWN = [one for page in REFERENCE for one in re.findall(r"^::: (\S+)$", page.read_text(), re.M)]


def resolved(path: str) -> Any:
    """Return the object of a dotted path, whatever of it is a module."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module(path)
    home, _, last = path.rpartition(".")
    # A function may have the name of its module: masactrl.runs.generate.generate.
    return getattr(sys.modules.get(home) or importlib.import_module(home), last)


@pytest.mark.parametrize("path", SHOWN)
def test_what_the_reference_shows_exists(path: str) -> None:
    assert resolved(path).__doc__


def test_the_reference_has_every_public_name() -> None:
    assert len(set(SHOWN)) == len(SHOWN)
    objects = [resolved(path) for path in SHOWN]
    for module in [one for one in objects if isinstance(one, ModuleType)]:
        objects += [getattr(module, one) for one in module.__all__]
    shown = {id(one) for one in objects}
    public = {*masactrl.__all__} - {"__version__"}
    assert not {one for one in public if id(getattr(masactrl, one)) not in shown}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the site needs: pip install 'masactrl[docs]'")
    done = subprocess.run(
        [ROOT / "scripts" / "docs", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "site" / "reference" / "edit" / "index.html").read_text()
    assert 'id="masactrl.runs.invert.invert"' in built
    assert "ScheduleError" in built
