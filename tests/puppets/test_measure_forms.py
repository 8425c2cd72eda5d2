from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch

from masactrl import models
from masactrl.bench.model_figures import form_sheet
from masactrl.bench.model_measure import measure_edits
from masactrl.bench.model_measure_forms import FORMS, measure_forms
from masactrl.cli import main
from masactrl.errors import ConfigError
from masactrl.puppets.colour import srgb_to_lab
from masactrl.puppets.inspector import Inspector, Reading
from masactrl.puppets.judging import JudgedBatch, background_lab
from masactrl.puppets.measured import EditSide, FormFigures

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import StableDiffusionPipeline
    from torch import Tensor

    from masactrl.models import LoadedModel

QUICK = {"steps": 2, "guidance": 2.0, "size": 64, "seed": 1}
WHERE = {"start_step": 1, "start_layer": 10}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return tiny_models.sd()


class Halving(Inspector):
    """An untrained inspector to whom the left half of every picture is animal."""

    def read(self, images: Tensor) -> Reading:
        mask = torch.zeros_like(images[:, :1])
        mask[..., : images.shape[-1] // 2] = 1
        return replace(super().read(images), mask=mask)


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    torch.manual_seed(0)
    return Halving().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def found(pipeline: StableDiffusionPipeline, inspector: Inspector) -> FormFigures:
    return measure_forms(
        pipeline, inspector, pairs=2, candidates=4, batch=3, threshold=0.4, **WHERE, **QUICK
    )


def test_every_form_is_measured_on_the_same_sources(found: FormFigures) -> None:
    assert tuple(found.sides) == FORMS
    assert found.samples.shape == (2, 1 + len(FORMS), 3, 64, 64)
    assert len(found.tasks) == 2
    assert 0 <= found.useless <= 1
    pictures = dict(zip(("source", *FORMS), found.samples.transpose(0, 1), strict=True))
    for number, form in enumerate(FORMS):
        for other in FORMS[:number]:  # every form is an edit of its own
            assert not torch.allclose(pictures[form], pictures[other], atol=1e-4), (form, other)
    assert form_sheet(found).width > 6 * 64


def test_the_sources_kept_look_most_like_their_background(
    found: FormFigures, pipeline: StableDiffusionPipeline, inspector: Inspector
) -> None:
    assert found.alike <= found.typical
    shot = JudgedBatch.of(found.samples[:, 0], inspector)
    ground = background_lab(shot.pictures, shot.reading.mask)
    distance = (shot.reading.coat - ground).square().sum(1).sqrt()
    assert distance.mean().item() == pytest.approx(found.alike, abs=0.1)
    assert distance.tolist() == sorted(distance.tolist())
    everyone = measure_forms(
        pipeline, inspector, pairs=4, candidates=4, batch=4, threshold=0.4, **WHERE, **QUICK
    )
    assert everyone.alike == pytest.approx(everyone.typical, abs=1e-3)
    assert everyone.typical == pytest.approx(found.typical, abs=0.1)
    assert torch.allclose(everyone.samples[:2], found.samples, atol=1e-3)
    # With nobody left out, replace is the edit that `measure_edits` makes.
    edits = measure_edits(pipeline, inspector, pairs=4, batch=12, **WHERE, **QUICK)
    for name in EditSide.__slots__:
        ours, theirs = everyone.sides["replace"], edits.controlled
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=0.05)


def test_the_background_s_mean_colour_leaves_the_animal_out() -> None:
    pictures = torch.full((2, 3, 32, 32), 0.25)
    animals = torch.zeros(2, 1, 32, 32)
    animals[0, :, 10:20, 10:20] = 1
    pictures[0, :, 8:22, 8:22] = 1.0  # with a blurred outline
    animals[1] = 1  # nothing but animal: the whole picture counts
    expected = srgb_to_lab(torch.full((2, 3), 0.25))
    assert torch.allclose(background_lab(pictures, animals), expected, atol=1e-3)


def test_what_cannot_be_measured_is_said(
    pipeline: StableDiffusionPipeline, inspector: Inspector
) -> None:
    for options in ({"pairs": 0}, {"pairs": 4, "candidates": 3}, {"batch": 0}):
        with pytest.raises(ConfigError, match="accepted are at least 1 pair"):
            measure_forms(pipeline, inspector, **WHERE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["forms", "edits", "prompts"])
def test_the_command_writes_table_and_pictures(
    what: str,
    model: LoadedModel,
    inspector: Inspector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(models, "load_pipeline", lambda *args, **kwargs: model)
    monkeypatch.setattr(Inspector, "load", lambda: inspector)
    words = ["--count", "2", "--steps", "2", "--start-step", "1", "--start-layer", "10"]
    assert main(["puppets", "measure", what, *words, "--json", "-o", str(tmp_path)]) == 0
    written = json.loads((tmp_path / f"{what}.json").read_text())
    assert (tmp_path / f"{what}.png").exists()
    rows = {"forms": list(FORMS), "edits": ["no control", "MasaCtrl"], "prompts": ["share"]}
    assert list(written["rows"]) == rows[what]
    assert ("useless automatic masks" in written) == (what == "forms")
    assert json.dumps(written, indent=2) in capsys.readouterr().out
