"""Write a trained model as a folder that `from_pretrained` of its stock pipeline loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

from masactrl.puppets.training.tokenizer import save_tokenizer


def export_pipeline(
    pipeline: StableDiffusionPipeline | StableDiffusion3Pipeline,
    folder: Path,
    preset: Mapping[str, object] | None = None,
) -> Path:
    """Save float16 safetensors, both tokenizer formats and the control preset.

    Args:
        pipeline: left as it is; a copy is converted.
        folder: made if absent, files of the same name are replaced.
        preset: content of ``masactrl.json`` (see `masactrl.models.loading.ModelPreset`); an
            existing file is kept when None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(pipeline).to(dtype=torch.float16)
    half.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(pipeline.tokenizer, folder / "tokenizer")
    if isinstance(pipeline, StableDiffusion3Pipeline):
        save_tokenizer(pipeline.tokenizer_2, folder / "tokenizer_2")
    for written in (folder / "model_index.json", *folder.glob("*/config.json")):
        forget_origin(written)
    if preset is not None:
        (folder / "masactrl.json").write_text(json.dumps(dict(preset), indent=2) + "\n")
    return folder


def forget_origin(config: Path) -> None:
    """Drop from a config the folder that the parts were loaded from: nobody else has it."""
    values = json.loads(config.read_text("utf-8"))
    if values.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
