from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import save_file

from masactrl.errors import ConfigError, ModelNotFound, UnsupportedPipeline
from masactrl.models import LoadedModel, ModelPreset, load_pipeline, write_preset


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_becomes_a_model_that_is_ready(model: LoadedModel) -> None:
    assert model.name == "tiny"
    assert model.family == "sd"
    assert model.pipeline.device == torch.device("cpu")
    assert model.pipeline.unet.dtype is torch.float32
    assert model.pipeline.safety_checker is None
    assert model.pipeline.progress_bar([]).disable


def test_size_and_settings_come_from_the_model(model: LoadedModel) -> None:
    side = model.pipeline.unet.config.sample_size * model.pipeline.vae_scale_factor
    assert model.preset == ModelPreset(
        steps=50, guidance_scale=7.5, start_step=4, start_layer=10, height=side, width=side
    )


def test_a_folder_may_bring_its_own_settings(folder: Path) -> None:
    preset = ModelPreset(
        steps=20, guidance_scale=3.0, start_step=2, start_layer=9, height=32, width=48
    )
    write_preset(folder, "puppets", preset)
    loaded = load_pipeline(folder)
    assert (loaded.family, loaded.preset) == ("puppets", preset)


def test_broken_settings_are_said_and_not_passed_over(folder: Path) -> None:
    (folder / "masactrl.json").write_text('{"steps": 0}')
    with pytest.raises(ConfigError, match=r"masactrl\.json cannot be used"):
        load_pipeline(folder)


# The pipeline itself mends such configurations, and says so.
@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
@pytest.mark.parametrize("scheduler", [PNDMScheduler, EulerDiscreteScheduler, DDIMScheduler])
def test_every_scheduler_becomes_stable_diffusions_ddim(folder: Path, scheduler: type) -> None:
    """Also where the model's configuration says nothing: DDIM's own defaults clip latents."""
    said = {"_class_name": scheduler.__name__, "beta_start": 0.001, "beta_end": 0.02}
    said |= {"beta_schedule": "linear", "prediction_type": "v_prediction"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    rewrite(folder / "model_index.json", scheduler=["diffusers", scheduler.__name__])
    made = load_pipeline(folder).pipeline.scheduler
    assert type(made) is DDIMScheduler
    assert made.config.beta_schedule == "linear"
    assert made.config.prediction_type == "v_prediction"
    assert made.config.clip_sample is False
    assert made.config.set_alpha_to_one is False
    assert made.config.steps_offset == 1


def test_what_the_model_says_itself_is_kept(folder: Path) -> None:
    rewrite(folder / "scheduler" / "scheduler_config.json", set_alpha_to_one=True)
    assert load_pipeline(folder).pipeline.scheduler.config.set_alpha_to_one is True


def test_a_folder_may_keep_its_scheduler(folder: Path) -> None:
    PNDMScheduler(steps_offset=1).save_pretrained(folder / "scheduler")
    rewrite(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    own = ModelPreset(
        steps=9,
        guidance_scale=1.0,
        start_step=0,
        start_layer=0,
        height=64,
        width=64,
        scheduler="model",
    )
    write_preset(folder, "sd", own)
    assert type(load_pipeline(folder).pipeline.scheduler) is PNDMScheduler


def test_sdxl_is_recognised(tmp_path: Path) -> None:
    tiny_models.sdxl().save_pretrained(tmp_path / "xl")
    loaded = load_pipeline(tmp_path / "xl")
    assert loaded.family == "sdxl"
    assert (loaded.preset.start_layer, loaded.preset.guidance_scale) == (44, 5.0)


def test_other_pipelines_are_refused_by_name(folder: Path) -> None:
    rewrite(folder / "model_index.json", _class_name="PixArtAlphaPipeline")
    with pytest.raises(UnsupportedPipeline, match="is a PixArtAlphaPipeline; a StableDiff"):
        load_pipeline(folder)


def test_inpainting_networks_are_refused(folder: Path) -> None:
    unet = tiny_models.unet()
    config = {**unet.config, "in_channels": 9}
    type(unet).from_config(config).save_pretrained(folder / "unet")
    with pytest.raises(UnsupportedPipeline, match="takes 9 channels where its latents have 4"):
        load_pipeline(folder)


def test_a_missing_part_is_named(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"could not be loaded: .*vae"):
        load_pipeline(folder)


def test_a_damaged_part_is_an_error_of_ours(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no tensors in here")
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_pipeline(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_pipeline(folder)


def test_pickled_weights_in_a_folder_are_refused(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelNotFound, match=r"pickle checkpoints \(\.bin\).*refused"):
        load_pipeline(folder)


def test_a_file_that_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet.weight": torch.zeros(1)}, path)
    with pytest.raises(UnsupportedPipeline, match="holds no whole Stable Diffusion checkpoint"):
        load_pipeline(path)
    path.write_bytes(b"no tensors in here")
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_pipeline(path)


def test_arguments_that_do_not_fit_the_place_are_refused(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="A revision belongs to a Hub id"):
        load_pipeline(model_folder, revision="main")
    with pytest.raises(ConfigError, match=r"config belongs to a \.safetensors file"):
        load_pipeline(model_folder, config=model_folder)


def test_half_precision_weights_run_in_the_wanted_precision(tmp_path: Path) -> None:
    tiny_models.sd().to(dtype=torch.float16).save_pretrained(tmp_path / "half")
    assert load_pipeline(tmp_path / "half").pipeline.unet.dtype is torch.float32
    loaded = load_pipeline(tmp_path / "half", dtype="bfloat16")
    assert loaded.pipeline.vae.dtype is torch.bfloat16
