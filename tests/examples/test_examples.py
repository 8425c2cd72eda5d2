"""What stands in examples/ runs: on the embedded model, with few steps."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "paper_story.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return its last expression, as a notebook does."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(ast.unparse(last), names)


def test_the_notebook_tells_its_story() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources[0].count("STEPS = 30") == 1
    sources[0] = sources[0].replace("STEPS = 30", "STEPS = 2")
    names: dict[str, Any] = {}
    shown = [run_cell(source, names) for source in sources]
    assert shown[0] is None
    for one in shown[1:]:
        assert isinstance(one, str) or one._repr_png_()[:4] == b"\x89PNG"
    target = names["result"].targets[0]
    assert target.controlled.tobytes() != target.uncontrolled.tobytes()
    assert len(names["cells"]) == len(names["start_steps"]) * 3
    assert names["edited"].picture.size == names["photo"].size == (256, 256)
