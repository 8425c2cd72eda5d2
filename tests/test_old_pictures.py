"""Pictures of an earlier version are read, and made again.

`old_pictures` was made at commit 8f3235a by the commands that their recipes tell, with the tiny
model of these tests in three steps. On the same processor they come back to the bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from masactrl.models import load_pipeline
from masactrl.rerun.kinds import RerunInputs, command_line, compare, rerun_recipe
from masactrl.runs.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from masactrl.models import LoadedModel

OLD = Path(__file__).parent / "old_pictures"
PHOTO = OLD / "photo.png"
PICTURES = sorted(one for one in OLD.iterdir() if one != PHOTO)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LoadedModel:
    """As the command loads it: not a copy, whose last bits are others."""
    return load_pipeline(model_folder, device="cpu")


# Tiny maps make masks without background now and then.
@pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")
@pytest.mark.parametrize("path", PICTURES, ids=[one.stem for one in PICTURES])
def test_an_old_picture_is_made_again(path: Path, model: LoadedModel) -> None:
    recipe = Recipe.parse(find_recipe(path))
    assert recipe.model.weights == model.origin.weights
    assert command_line(recipe, model="tiny").startswith(f"masactrl {recipe.kind} ")
    made = rerun_recipe(model, recipe, RerunInputs(inputs=(PHOTO,) * len(recipe.inputs)))
    if path.suffix == ".png":
        with Image.open(path) as before:
            # Last bits depend on the processor; another control or noise is below 30 dB.
            assert compare(before.convert("RGB"), made).psnr > 45
