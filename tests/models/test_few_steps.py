"""Models distilled for a few steps: recognised or named, drawn with, edited, made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_mmdit
import tiny_models
import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from editing_parts import random_picture

from masactrl import EditRequest, GenerateRequest, InversionRequest, generate, invert
from masactrl.errors import ConfigError
from masactrl.models import LoadedModel, load_pipeline
from masactrl.models.denoiser import Denoiser
from masactrl.models.few_steps import FEW_STEPS, for_few_steps, recognised
from masactrl.rerun.kinds import RerunInputs, command_line, rerun_recipe


def told_guidance(pipeline: Any) -> None:
    """Give the pipeline a network that is told its guidance as a number, as whole LCMs have it."""
    config = dict(pipeline.unet.config) | {"time_cond_proj_dim": 32, "_use_default_values": []}
    torch.manual_seed(0)
    pipeline.unet = UNet2DConditionModel.from_config(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = tiny_models.sd()
    told_guidance(pipeline)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    path = tmp_path_factory.mktemp("tiny") / "dreamy"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_pipeline(folder, device="cpu")


def test_a_consistency_model_is_known_by_its_scheduler(folder: Path, model: LoadedModel) -> None:
    preset = model.preset
    assert (preset.distilled, preset.steps, preset.guidance_scale) == ("lcm", 4, 8.5)
    assert isinstance(model.pipeline.scheduler, LCMScheduler)
    plain = load_pipeline(folder, device="cpu", recipe="none")
    assert plain.preset.distilled == ""
    assert type(plain.pipeline.scheduler).__name__ == "DDIMScheduler"


def test_a_run_is_made_again_to_the_bit(model: LoadedModel) -> None:
    asked = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), height=64, width=64, start_at=0.2, seed=3
    )
    torch.manual_seed(1)
    made = generate(model, asked)
    assert (made.request.start_step, made.request.start_at) == (1, None)
    recipe = made.recipe("source")
    assert "--preset lcm" in command_line(recipe, model="x")
    torch.manual_seed(2)  # the noise of its steps comes from the seed alone
    assert rerun_recipe(model, recipe, RerunInputs()).tobytes() == made.source.tobytes()
    other = generate(model, asked, method=None)
    assert other.targets[0].controlled.tobytes() == made.targets[0].controlled.tobytes()


# diffusers' Euler schedulers hand a tensor to numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("recipe", "make"),
    [*((one, tiny_models.sd) for one in FEW_STEPS), ("turbo", tiny_models.sdxl)],
)
def test_every_recipe_draws_with_control(recipe: str, make: Any, model: LoadedModel) -> None:
    pipeline = make()
    own = pipeline.scheduler.alphas_cumprod
    preset = for_few_steps(pipeline, recipe, model.preset)
    assert torch.equal(pipeline.scheduler.alphas_cumprod, own)
    loaded = LoadedModel(pipeline=pipeline, name="tiny", family="sd", preset=preset)
    asked = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), height=32, width=32, start_layer=1
    )
    made = generate(loaded, asked)
    assert made.request.guidance_scale == 1
    target = made.targets[0]
    assert target.controlled.tobytes() != target.uncontrolled.tobytes()
    if recipe not in ("lcm", "tcd"):
        with pytest.raises(ConfigError, match=f"{recipe} models are distilled without guidance"):
            generate(loaded, replace(asked, guidance_scale=7))


@pytest.mark.parametrize("steps", [4, 12])
def test_pictures_are_edited_without_inversion(steps: int, model: LoadedModel) -> None:
    asked = InversionRequest(method="virtual", source_prompt="a cat", steps=steps)
    session = invert(model, random_picture(), asked)
    own = LCMScheduler.from_config(model.pipeline.scheduler.config)
    own.set_timesteps(steps)
    assert session.trajectory.schedule.timesteps == tuple(own.timesteps.tolist())
    for request in (
        EditRequest(target_prompts=("a dog",), method="unified"),
        EditRequest(target_prompts=("a dog",), start_at=0.25),
    ):
        made = session.edit(request)
        assert made.quality.psnr == made.quality.ceiling
        target = made.targets[0]
        assert target.uncontrolled is not None
        assert target.controlled.tobytes() != target.uncontrolled.tobytes()
        assert made.passes["edit"] == session.plan(request).edit


def test_the_virtual_path_takes_lcm_s_timesteps_only_where_they_are_its_own() -> None:
    denoiser = Denoiser(tiny_models.sd())
    assert denoiser.schedule(4, spacing="trailing").timesteps == (999, 749, 499, 249)


def test_a_model_without_guidance_is_led_away_from_words(model: LoadedModel) -> None:
    turbo = replace(model.preset, distilled="turbo", guidance_scale=1.0)
    asked = EditRequest(target_prompts=("a dog",), guidance_scale=1.5)
    with pytest.raises(ConfigError, match=r"guidance_scale=1\.5 was given, and turbo.*negative"):
        asked.resolve(turbo, 4)
    assert replace(asked, negative_prompt="a cat").resolve(turbo, 4).guidance_scale == 1.5


def test_names_tell_the_recipe() -> None:
    scheduler = tiny_models.scheduler()
    assert recognised(scheduler, ("sdxl-turbo",)) == "turbo"
    assert recognised(scheduler, ("dreamshaper", "lcm-lora-sdv1-5.safetensors")) == "lcm"
    assert recognised(scheduler, ("Hyper-SD15-4steps-lora.safetensors",)) == "hyper-sd"
    assert recognised(scheduler, ("stable-diffusion-v1-5",)) == ""


def test_bad_input_is_a_sentence(model: LoadedModel) -> None:
    prompts: dict[str, Any] = {"target_prompts": ("a dog",)}
    with pytest.raises(ConfigError, match=r"start_at=1\.5 was given; accepted is 0 to 1"):
        EditRequest(**prompts, start_at=1.5)
    with pytest.raises(ConfigError, match="give one"):
        EditRequest(**prompts, start_at=0.5, start_step=1)
    with pytest.raises(ConfigError, match="start_at belongs to the method masactrl"):
        EditRequest(**prompts, start_at=0.5, method="unified")
    with pytest.raises(ConfigError, match="told its guidance as a number"):
        generate(model, GenerateRequest(source_prompt="a cat", negative_prompt="ugly", **prompts))
    off = GenerateRequest(
        source_prompt="a cat", negative_prompt="ugly", guidance_scale=1, steps=2, **prompts
    )
    with pytest.raises(ConfigError, match=r"guidance is off \(scale 1\)"):
        generate(replace(model, pipeline=tiny_models.sd()), off)
    with pytest.raises(ConfigError, match="'fast' was given; accepted are auto"):
        for_few_steps(tiny_models.sd(), "fast", model.preset)
    with pytest.raises(ConfigError, match="StableDiffusion3Pipeline"):
        for_few_steps(tiny_mmdit.sd3(), "lcm", model.preset)
