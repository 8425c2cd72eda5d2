"""LoRA files of the model's own kind and of another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from masactrl.cli import main
from masactrl.errors import ModelNotFound
from masactrl.models import LoadedModel, Lora
from masactrl.models.adapters import with_loras
from masactrl.models.presets import default_preset


def loaded(pipeline: Any) -> LoadedModel:
    preset = default_preset("sd", height=64, width=64)
    return LoadedModel(pipeline=pipeline, name="tiny", family="sd", preset=preset)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What LCM-LoRAs of Stable Diffusion 1.5 are, at tiny size."""
    path = tmp_path_factory.mktemp("loras") / "lcm-lora-sd.safetensors"
    unet = tiny_models.sd().unet
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(
        path.parent, unet_lora_layers=layers, weight_name=path.name
    )
    return path


def test_a_lora_of_the_model_s_kind_is_added(lora: Path) -> None:
    made = with_loras(loaded(tiny_models.sd()), [Lora(path=lora, scale=0.5)])
    assert [one.name for one in made.origin.loras] == [lora.name]


def test_a_lora_of_another_kind_is_a_sentence(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("diffusers.loaders.peft")
    level = logger.level
    with pytest.raises(ModelNotFound, match=r"another kind of model: in this StableDiffusionXLP"):
        with_loras(loaded(tiny_models.sdxl()), [Lora(path=lora)])
    assert logger.level == level

    tiny_models.sdxl().save_pretrained(tmp_path / "sdxl")
    words = ["generate", "a cat", "--to", "a dog", "--model", str(tmp_path / "sdxl")]
    words += ["--lora", str(lora), "--preset", "lcm", "-o", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*words, "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "other sizes" in said
    assert "size mismatch" not in said


@pytest.mark.parametrize(
    ("kept", "why"), [(0.5, "of its 64 layers it reaches 32"), (0, "no layer")]
)
def test_a_lora_that_fits_in_part_is_not_used(
    kept: float, why: str, lora: Path, tmp_path: Path
) -> None:
    tensors = load_file(lora)
    names = sorted({one.rpartition(".lora")[0] for one in tensors})
    gone = names[round(kept * len(names)) :]
    other = {
        name.replace(".attentions.", ".others.")
        if name.rpartition(".lora")[0] in gone
        else name: one
        for name, one in tensors.items()
    }
    save_file(other, tmp_path / "part.safetensors")
    with pytest.raises(ModelNotFound, match=why):
        with_loras(loaded(tiny_models.sd()), [Lora(path=tmp_path / "part.safetensors")])
