"""The documentation's links resolve, its site knows every page, its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

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


def commands(text: str) -> list[list[str]]:
    """Return the words of every `masactrl ...` in indented or fenced shell lines."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^(?: {4}|\$ )[^\n#`]*?(masactrl [a-z][^\n#;]*)", joined, re.MULTILINE)
    return [shlex.split(line) for line in lines]


CASES = [(name(page), words) for page in PAGES for words in commands(page.read_text())]


@pytest.mark.parametrize(("page", "words"), CASES, ids=lambda one: " ".join(one)[:60])
def test_commands_in_the_text_exist(page: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    assert command is not typer.main.get_command(app), f"{page}: {words}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    known |= {other for parameter in command.params for other in parameter.secondary_opts}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{page}: {' '.join(words)}"
