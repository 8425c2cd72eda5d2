"""Pickled weights: refused, unless somebody says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.models import load_pipeline
from masactrl.models.locate import locate


def test_a_folder_of_pickles_needs_the_word(tmp_path: Path) -> None:
    pipeline = tiny_models.sd()
    pipeline.unet.register_to_config(sample_size=8)
    pipeline.save_pretrained(tmp_path / "old")
    weights = tmp_path / "old" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(pipeline.unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelNotFound, match="can run code when loaded"):
        load_pipeline(tmp_path / "old", device="cpu")
    loaded = load_pipeline(tmp_path / "old", device="cpu", allow_pickle=True)
    expected = pipeline.unet.state_dict()
    found = loaded.pipeline.unet.state_dict()
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert loaded.origin.kind == "folder"


def test_what_carries_code_is_not_run_even_then(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "run",)  # type: ignore[return-value]

    path = tmp_path / "trap.ckpt"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(ConfigError, match="--allow-pickle"):
        locate(path)
    assert locate(path, allow_pickle=True).kind == "file"
    with pytest.raises(ModelNotFound, match=r"trap\.ckpt could not be loaded"):
        load_pipeline(path, device="cpu", allow_pickle=True)
    assert not (tmp_path / "run").exists()
