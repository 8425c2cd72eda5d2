"""Folders with half-precision files alone, in parts, or with something else entirely."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from masactrl.errors import ModelNotFound
from masactrl.models import load_pipeline
from masactrl.models.variants import files_in, variant_of, weights_there


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def rename(folder: Path, variant: str, parts: str = "*") -> None:
    for file in list(folder.glob(f"{parts}/*.safetensors")):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def test_a_folder_of_half_precision_files_loads(folder: Path) -> None:
    rename(folder, "fp16")
    assert variant_of(files_in(folder)) == "fp16"
    loaded = load_pipeline(folder, device="cpu")
    assert loaded.pipeline.unet.dtype is torch.float32


def test_one_part_of_a_variant_beside_plain_ones_loads(folder: Path) -> None:
    rename(folder, "fp16", "unet")
    assert load_pipeline(folder, device="cpu").name == "copy"


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (("unet/diffusion_pytorch_model.safetensors", "vae/x.json"), None),
        (("unet/diffusion_pytorch_model.non_ema.safetensors",), "non_ema"),
        (
            (
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "unet/diffusion_pytorch_model.bf16.safetensors",
                "vae/diffusion_pytorch_model.bf16.safetensors",
            ),
            "bf16",
        ),
        (
            (
                "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            ),
            "fp16",
        ),
        (("unet/diffusion_pytorch_model-00001-of-00002.safetensors",), None),
        (("unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",), "fp16"),
        (
            (
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "unet/diffusion_pytorch_model.safetensors",
                "text_encoder/model.fp16.safetensors",
                "text_encoder/model.safetensors",
            ),
            None,
        ),
        (("unet/diffusion_pytorch_model.fp16.bin",), None),
        (("unet/diffusion_pytorch_model.fp16.safetensors", "unet/LICENSE"), "fp16"),
    ],
)
def test_the_variant_of_a_folder(
    tmp_path: Path, names: tuple[str, ...], variant: str | None
) -> None:
    assert variant_of(files_in(touched(tmp_path, *names))) == variant


def test_pickles_count_where_they_are_allowed(tmp_path: Path) -> None:
    touched(tmp_path, "unet/diffusion_pytorch_model.fp16.bin")
    assert variant_of(files_in(tmp_path), pickles=True) == "fp16"


def test_a_file_without_an_ending_is_no_traceback(folder: Path) -> None:
    rename(folder, "fp16")
    touched(folder, "unet/LICENSE")
    with contextlib.suppress(ModelNotFound):  # what diffusers makes of it; a sentence at most
        load_pipeline(folder, device="cpu")


def test_files_of_two_variants_are_named(folder: Path) -> None:
    rename(folder, "fp16", "unet")
    rename(folder, "bf16", "vae")
    with pytest.raises(ModelNotFound) as caught:
        load_pipeline(folder, device="cpu")
    assert "diffusion_pytorch_model.fp16.safetensors" in str(caught.value)
    assert "all plain or all of one variant" in str(caught.value)


def test_what_is_there_is_listed(tmp_path: Path) -> None:
    assert weights_there(tmp_path) == "no file of weights"
    touched(tmp_path, "unet/model.onnx", "sd15.safetensors", "notes.txt")
    assert weights_there(tmp_path) == "sd15.safetensors, unet/model.onnx"
    touched(tmp_path, *(f"unet/{n:02}.bin" for n in range(12)))
    assert weights_there(tmp_path).endswith("and 4 more")


def test_a_folder_around_the_model_says_what_was_meant(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"did you mean .*copy\?"):
        load_pipeline(tmp_path)
    shutil.rmtree(folder)
    touched(tmp_path, "anything-v4.safetensors")
    with pytest.raises(ModelNotFound, match=r"did you mean the file .*anything-v4\.safetensors\?"):
        load_pipeline(tmp_path)


def test_a_repository_of_half_precision_files_loads_from_the_cache(
    folder: Path, tmp_path: Path
) -> None:
    """As `hf download` leaves it; in a process of its own, as the cache's place is read once."""
    rename(folder, "fp16")
    kept = tmp_path / "hub" / "models--owner--name"
    (kept / "refs").mkdir(parents=True)
    commit = "0" * 40
    (kept / "refs" / "main").write_text(commit)
    (kept / "snapshots").mkdir()
    shutil.copytree(folder, kept / "snapshots" / commit)
    words = "from masactrl import load_pipeline; print(load_pipeline('owner/name').origin.revision)"
    told = subprocess.run(
        [sys.executable, "-c", words],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.strip() == commit, told.stderr
