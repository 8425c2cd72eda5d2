"""How much layers depend on position: measured by hand, drawn, and a run that is not changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_mmdit
import torch

from masactrl.attention.calibration import PositionDependence, position_dependence
from masactrl.bench.positions import measure_positions
from masactrl.cli import main
from masactrl.errors import ConfigError, ControlNotApplied, UnsupportedPipeline

PROMPTS = ["a cat sitting", "a red bird"]


@pytest.fixture(scope="module")
def flux() -> Any:
    return tiny_mmdit.flux()


def test_scores_are_those_measured_by_hand(flux: Any) -> None:
    """A block's inputs are kept, and the block is run again with its picture at the origin."""
    calls: list[list[tuple[Any, dict[str, Any], Any]]] = []
    blocks = [*flux.transformer.transformer_blocks, *flux.transformer.single_transformer_blocks]
    before = flux.transformer.register_forward_pre_hook(lambda *_: calls.append([]))
    handles = [
        block.register_forward_hook(
            lambda module, _, given, out: calls[-1].append((module, given, out)), with_kwargs=True
        )
        for block in blocks
    ]
    plain = tiny_mmdit.run(flux, PROMPTS, steps=2)
    for handle in (before, *handles):
        handle.remove()
    made = []
    found = position_dependence(flux, lambda: made.append(tiny_mmdit.run(flux, PROMPTS, steps=2)))
    assert torch.equal(made[0], plain)
    for step, call in enumerate(calls):
        for layer, (module, given, out) in enumerate(call):
            x, (cos, sin) = given["hidden_states"], given["image_rotary_emb"]
            text = given["encoder_hidden_states"].shape[1]
            rotary = (
                torch.cat([cos[:text], torch.ones_like(cos[text:])]),
                torch.cat([sin[:text], torch.zeros_like(sin[text:])]),
            )
            with torch.no_grad():
                other = module(**given | {"image_rotary_emb": rotary})[1]
            scores = [
                float((out[1][row] - other[row]).norm() / (out[1][row] - x[row]).norm())
                for row in range(2)
            ]
            assert found.scores[step][layer] == pytest.approx(sum(scores) / 2, rel=1e-4)
    assert found.places == ("joint", "joint", "single", "single", "single", "single")
    assert min(found.layers) > 0.01


def test_the_least_dependent_layers_are_chosen() -> None:
    found = PositionDependence(
        scores=((0.3, 0.1, 0.9, 0.5), (0.1, 0.1, 0.5, 0.0)), places=("joint",) * 4
    )
    assert found.layers == pytest.approx((0.2, 0.1, 0.7, 0.25))
    assert found.least(2) == (0, 1)
    assert found.schedule(3).layers == (0, 1, 3)
    with pytest.raises(ConfigError, match=r"5 layers were asked for.*1 to 4"):
        found.least(5)


def test_what_cannot_be_measured(flux: Any) -> None:
    with pytest.raises(UnsupportedPipeline, match=r"no rotary embeddings.*for FLUX"):
        position_dependence(tiny_mmdit.sd3(), lambda: None)
    with pytest.raises(ControlNotApplied, match="never called"):
        position_dependence(flux, lambda: None)


def test_the_command(
    flux: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "masactrl.runs.model_spec.ModelSpec.load", lambda _: SimpleNamespace(pipeline=flux)
    )
    words = ["bench", "positions", *PROMPTS, "--steps", "2", "--layers", "3", "--size", "64"]
    assert main([*words, "--model", "flux", "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    chosen = measure_positions(flux, PROMPTS, steps=2, count=3, height=64, width=64).chosen
    assert f"Schedule(layers=({', '.join(map(str, chosen))}))" in shown
    assert json.loads((tmp_path / "positions.json").read_text())["chosen"] == list(chosen)
    for ending in ("png", "svg"):
        assert (tmp_path / f"positions.{ending}").stat().st_size > 1000
    assert main([*words, "--model", "flux", "-o", str(tmp_path)]) != 0
    assert "already" in capsys.readouterr().err
