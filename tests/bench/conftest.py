"""Tiny random networks that measure, made once; PIE-Bench's data set in small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch
from pie_parts import Processor, lpips, write_data
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.bench.pie_metrics import PieMetrics


@pytest.fixture(scope="session")
def clip() -> CLIPModel:
    torch.manual_seed(0)
    text = tiny_models._text_config(len(tiny_models.tokenizer())).to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


@pytest.fixture(scope="session")
def dino() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=224,
        patch_size=56,
    )
    return ViTModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="session")
def metrics(clip: CLIPModel, dino: ViTModel) -> PieMetrics:
    from masactrl.bench.pie_metrics import ClipScore, PieMetrics

    return PieMetrics(clip=ClipScore(clip, Processor()), lpips=lpips, dino=dino)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good rows (one with a whole-image mask) and one of every bad kind."""
    return write_data(tmp_path)
