"""The documents say what is true: paths exist, equations resolve, examples run."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import tiny_mmdit
import tiny_models

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(__file__).parents[2] / "src" / "masactrl"
# Tiny maps make masks without background now and then.
quiet = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


def equations() -> list[str]:
    rows = re.findall(r"^\|.*\| `([^`]+)` \|$", (DOCS / "equations.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    return sorted(set(rows))


@pytest.mark.parametrize("row", equations())
def test_every_equation_is_where_the_table_says(row: str) -> None:
    path, name = row.split(":")
    assert (PACKAGE / path).exists()
    found: Any = importlib.import_module(f"masactrl.{path.removesuffix('.py').replace('/', '.')}")
    for part in name.split("."):
        found = getattr(found, part)
    assert found.__doc__, "what stands in the table explains itself"


def test_no_row_of_the_table_is_without_a_place() -> None:
    lines = (DOCS / "equations.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| Equation")]
    assert all(re.search(r"\| `[^`]+:[^`]+` \|$", row) for row in rows)


def test_every_pitfall_names_files_that_exist() -> None:
    text = (DOCS / "pitfalls.md").read_text()
    items = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(items) + 1))
    for item in items:
        paths = re.findall(r"`([\w./]+\.py)`", item)
        assert paths, item
        for path in paths:
            assert (PACKAGE / path).exists(), path


def snippets(page: str = "control.md") -> list[str]:
    text = (DOCS / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@quiet
def test_the_examples_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {
        "pipeline": tiny_models.sd(),
        "controlnet_pipeline": tiny_models.sd_controlnet(),
    }
    found = snippets()
    assert len(found) >= 7
    for snippet in found:
        # Small and short, otherwise as written.
        small = snippet.replace("num_inference_steps=50", "num_inference_steps=3, output_type='pt'")
        exec(compile(small.replace("64, 64, gen", "8, 8, gen"), "control.md", "exec"), names)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "(1, 2) (10, 11, 12, 13, 14, 15)"
    assert shown[1].endswith("MiB")
    assert shown[2:] == ["torch.Size([3, 4, 4])", "torch.Size([3, 2, 2])"]
    assert not any("_diffusers_hook" in vars(m) for m in names["pipeline"].unet.modules())


@quiet
def test_the_examples_of_flux_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"pipeline": tiny_mmdit.flux()}
    small = "num_inference_steps=3, height=64, width=64, output_type='pt'"
    for snippet in snippets("guides/sd3_and_flux.md"):
        exec(compile(snippet.replace("num_inference_steps=28", small), "sd3", "exec"), names)
    assert capsys.readouterr().out == "(1, 2) (2, 3, 4, 5)\n"


def test_the_page_of_settings_is_made_from_the_declarations() -> None:
    space = runpy.run_path(str(DOCS.parent / "scripts" / "settings_page"))
    written = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    assert written == space["page"](), "run scripts/settings_page"
