"""A model in one file: written in the original layout, read by diffusers' own converter."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest
import tiny_models
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from masactrl.cli import main
from masactrl.errors import ModelNotFound, OutputError, UnsupportedPipeline
from masactrl.models import LoadedModel, export_single_file, load_pipeline
from masactrl.models.single_file import original_layout

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def same_weights(one: DiffusionPipeline, other: DiffusionPipeline) -> None:
    for part in PARTS:
        mine = getattr(other, part, None)
        if mine is None:
            continue
        theirs = getattr(one, part).state_dict()
        for name, value in mine.state_dict().items():
            assert torch.equal(theirs[name], value), f"{part} {name}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(original_layout(tiny_models.sd()), path)
    return path


@pytest.mark.parametrize("kind", ["sd", "sd2", "sdxl"])
def test_every_family_comes_back(kind: str, tmp_path: Path) -> None:
    pipeline = tiny_models.sdxl() if kind == "sdxl" else tiny_models.sd()
    if kind == "sd2":
        pipeline.text_encoder.config.hidden_act = "gelu"
    if kind == "sdxl":
        # diffusers tells the two text models apart by their width.
        config = pipeline.text_encoder_2.config
        wider = type(config)(**{**config.to_dict(), "hidden_size": 48, "projection_dim": 48})
        pipeline.text_encoder_2 = CLIPTextModelWithProjection(wider)
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    pipeline.save_pretrained(tmp_path / "folder")
    model = load_pipeline(tmp_path / "folder", device="cpu")
    path = export_single_file(model, tmp_path / "one.safetensors")
    back = load_pipeline(path, device="cpu")
    assert (back.family, back.preset) == (model.family, model.preset)
    assert back.pipeline.scheduler.config == model.pipeline.scheduler.config
    assert back.pipeline.tokenizer("a cat").input_ids == pipeline.tokenizer("a cat").input_ids
    same_weights(back.pipeline, model.pipeline)
    assert ("v_pred" in load_file(path)) == (kind == "sdxl")


def test_the_embedded_model_makes_the_same_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "puppets.safetensors"
    assert main(["export", "--single-file", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == path.stat().st_size
    back, model = load_pipeline(path, device="cpu"), load_pipeline("puppets", device="cpu")
    assert (back.family, back.preset) == ("puppets", model.preset)
    same_weights(back.pipeline, model.pipeline)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1"
        # Stored in float16, and nothing is lost by it.
        assert file.get_tensor("model.diffusion_model.out.2.weight").dtype == torch.float16
        # The original code has an attention here; this one adds nothing.
        middle = "first_stage_model.decoder.mid.attn_1.proj_out.weight"
        assert not file.get_tensor(middle).any()
    noise = tiny_models.noise(1, 32, 32, seed=3)[:, :1].repeat(1, 16, 1, 1)
    one, other = (
        m.pipeline("a cat", latents=noise, num_inference_steps=1, output_type="pt").images
        for m in (back, model)
    )
    assert torch.equal(one, other)


def test_what_cannot_be_written_is_said(model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has to end in"):
        export_single_file(model, tmp_path / "model.ckpt")
    model.pipeline.unet.foreign = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedPipeline, match="no name"):
        export_single_file(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.glob("*model*"))


@pytest.mark.parametrize("damage", ["!", "bm9uZQ==", "eJyrVnLSV7JSUKoFABGkAvU="])
def test_a_damaged_description_is_a_sentence(
    damage: str, model: LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_layout(model.pipeline), path, metadata={"masactrl.files": damage})
    with pytest.raises(ModelNotFound, match="description in the header"):
        load_pipeline(path)


def test_names_in_a_description_stay_in_their_folder(model: LoadedModel, tmp_path: Path) -> None:
    path, names = tmp_path / "model.safetensors", {"../evil.json": "{}"}
    packed = base64.b64encode(zlib.compress(json.dumps(names).encode())).decode()
    save_file(original_layout(model.pipeline), path, metadata={"masactrl.files": packed})
    with pytest.raises(ModelNotFound, match="description in the header"):
        load_pipeline(path)


def test_one_file_holds_the_same_model_as_the_folder(checkpoint: Path, model_folder: Path) -> None:
    one = load_pipeline(checkpoint, config=model_folder)
    other = load_pipeline(model_folder)
    assert (one.name, one.family, one.preset) == ("tiny", "sd", other.preset)
    same_weights(one.pipeline, other.pipeline)


def test_without_configuration_and_connection_the_sentence_says_so(checkpoint: Path) -> None:
    with pytest.raises(ModelNotFound, match="needs the configuration of its kind"):
        load_pipeline(checkpoint)
