"""The paper's ablations: every cell is the plain run of what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from editing_parts import MASKS, random_picture

from masactrl.errors import ConfigError, OutputError
from masactrl.runs.generate import GenerateRequest, generate
from masactrl.runs.invert import EditMasks, EditRequest, InversionRequest, invert
from masactrl.studies.ablation import AblationResult, ablate

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel

# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")

NAMES = ["start-step", "start-layer", "places", "masks"]


def cells(result: AblationResult) -> dict[str, dict[str, Image.Image]]:
    return {row.name: dict(row.cells) for row in result.rows}


def alike(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures are the same but for rounding, which the size of a batch changes."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) <= 1


def test_a_photograph(model: LoadedModel, tmp_path: Path) -> None:
    session = invert(model, random_picture(), InversionRequest(source_prompt="a cat", steps=3))
    request = EditRequest(target_prompts=("a dog running",), start_step=1, half=False)
    result = ablate(session, request, words=("cat", "dog"))
    found = cells(result)
    assert list(found) == NAMES
    assert list(found["start-step"]) == ["S = 0", "S = 1", "S = 2"]
    assert list(found["start-layer"]) == ["L = 0", "L = 4", "L = 8", "L = 10", "L = 12"]
    assert list(found["places"]) == ["encoder", "middle", "decoder", "all layers"]
    pictures = [one.tobytes() for row in list(found.values())[:3] for one in row.values()]
    # S = 1 and L = 10 are in both first rows; L = 0 is all layers.
    assert len(set(pictures)) == len(pictures) - 2
    session.forget()
    late = session.edit(replace(request, start_step=2)).targets[0].controlled
    assert alike(found["start-step"]["S = 2"], late)
    masked = replace(request, masks=EditMasks(source="cat", targets="dog"))
    alone = session.edit(masked).targets[0].controlled
    assert alike(found["masks"]["masks from words"], alone)

    paths = result.save(tmp_path)
    assert {path.name for path in paths} == {
        f"ablation-{name}.{ending}" for name in NAMES for ending in ("png", "svg")
    }
    with pytest.raises(OutputError, match="already"):
        result.save(tmp_path)


def test_a_prompt(model: LoadedModel) -> None:
    request = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), steps=3, height=48, width=64
    )
    result = ablate(model, request, words=("cat", "dog"))
    found = cells(result)
    assert list(found) == NAMES
    alone = generate(model, replace(request, start_step=2))
    assert found["start-step"]["S = 2"].tobytes() == alone.targets[0].controlled.tobytes()
    assert result.uncontrolled.tobytes() == alone.targets[0].uncontrolled.tobytes()
    assert len({one.tobytes() for one in found["masks"].values()}) == 2
    assert list(cells(ablate(model, request))) == NAMES[:3]


def test_what_cannot_be_is_said(model: LoadedModel) -> None:
    session = invert(model, random_picture(), InversionRequest(steps=3))
    with pytest.raises(ConfigError, match="2 were given"):
        ablate(session, EditRequest(target_prompts=("a", "b")))
    with pytest.raises(ConfigError, match="name them by words"):
        ablate(session, EditRequest(target_prompts=("a",), masks=MASKS))
    other = GenerateRequest(source_prompt="a", target_prompts=("b",), method="sdedit")
    with pytest.raises(ConfigError, match="not to sdedit"):
        ablate(model, other)
