"""A pipeline that somebody has loaded becomes a model, and stays what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_mmdit
import tiny_models
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from masactrl import GenerateRequest, generate, load_pipeline, model_of
from masactrl.errors import UnsupportedPipeline
from masactrl.models import ModelPreset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REQUEST = GenerateRequest(
    source_prompt="a cat standing", target_prompts=("a cat running",), steps=2, start_step=0
)


def test_it_draws_as_the_same_folder_does(model_folder: Path) -> None:
    loaded = load_pipeline(model_folder, device="cpu")
    again = model_of(loaded.pipeline, name="mine", preset=loaded.preset)
    assert again.origin.weights == loaded.origin.weights
    assert again.origin.kind == "object"
    first, second = generate(loaded, REQUEST), generate(again, REQUEST)
    assert first.source.tobytes() == second.source.tobytes()
    assert second.recipe("source").model.name == "mine"


def test_the_pipeline_stays_what_it_was() -> None:
    pipeline = tiny_models.sd()
    own = DDPMScheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler = own
    told = dict(pipeline.config)
    pipeline.set_progress_bar_config(desc="mine")
    model = model_of(pipeline)
    assert type(model.pipeline.scheduler) is DDIMScheduler
    assert model.pipeline.unet is pipeline.unet
    assert pipeline.scheduler is own
    assert dict(pipeline.config) == told
    assert pipeline._progress_bar_config == {"desc": "mine"}
    preset = ModelPreset(
        steps=3,
        guidance_scale=2,
        start_step=1,
        start_layer=9,
        height=32,
        width=32,
        scheduler="model",
    )
    kept = model_of(pipeline, preset=preset)
    assert kept.pipeline.scheduler is own
    assert generate(kept, REQUEST).request.guidance_scale == 2


@pytest.mark.parametrize("make", [tiny_models.sdxl, tiny_mmdit.sd3, tiny_mmdit.flux])
def test_every_family_is_known(make: Callable[[], Any]) -> None:
    model = model_of(make())
    assert model.family == make.__name__
    assert torch.isfinite(torch.tensor(model.preset.guidance_scale))


def test_other_classes_are_said() -> None:
    with pytest.raises(UnsupportedPipeline, match=r"StableDiffusionImg2ImgPipeline; accepted are"):
        model_of(tiny_models.sd_img2img())
