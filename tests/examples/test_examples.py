"""What stands in examples/ runs: on the embedded model, with few steps."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
WEIGHTS = Path(__file__).parents[2] / "src" / "masactrl" / "puppets" / "weights"
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


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers copy custom code below the test's own folder."""
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [one for one in sys.modules if one.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("own_code")
def test_the_custom_pipeline_is_the_control() -> None:
    from diffusers import DiffusionPipeline

    from masactrl.attention import Rows, Schedule
    from masactrl.errors import ConfigError
    from masactrl.methods import MasaCtrl

    pipe = DiffusionPipeline.from_pretrained(
        WEIGHTS,
        custom_pipeline=str(EXAMPLES / "custom_pipeline"),
        trust_remote_code=True,
        dtype=torch.float32,
    )
    assert type(pipe).__name__ == "MasaCtrlPipeline"
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a cat standing in the snow", "a cat running in the snow"]
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "pt"}

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    made = pipe(prompts, generator=seeded(), start_step=1, start_layer=9, **options).images
    plain = pipe(prompts, generator=seeded(), strength=0.0, **options).images
    factor = pipe.vae_scale_factor
    noise = torch.randn(
        (1, pipe.unet.config.in_channels, 64 // factor, 64 // factor), generator=seeded()
    )
    stock = super(type(pipe), pipe).__call__
    expected = stock(prompts, latents=noise.repeat(2, 1, 1, 1), **options).images
    assert torch.equal(plain, expected)
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=9))
    with control.attach(pipe, Rows.one_source(targets=1)):
        controlled = stock(prompts, latents=noise.repeat(2, 1, 1, 1), **options).images
    assert torch.equal(made, controlled)
    assert torch.equal(made[0], plain[0])
    assert not torch.equal(made[1], plain[1])
    two = pipe(prompts, generator=seeded(), num_images_per_prompt=2, **options).images
    assert len(two) == 4
    with pytest.raises(ConfigError, match="nothing to control"):
        pipe("a cat", start_step=1, **options)
    # Nothing is left behind: a single prompt is a stock run.
    alone = pipe(prompts[0], latents=noise, **options).images
    assert torch.equal(alone, stock(prompts[0], latents=noise, **options).images)
