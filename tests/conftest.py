"""What all tests share: no network, one thread, and one tiny model on the disk."""

from __future__ import annotations

import os

# Read when the Hub's library is imported, so before anything that imports it.
os.environ["HF_HUB_OFFLINE"] = "1"

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks run faster alone than on threads that wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion with random weights, as a folder in diffusers format."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline = tiny_models.sd()
    pipeline.unet.register_to_config(sample_size=8)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _loaded(model_folder: Path) -> LoadedModel:
    from masactrl.models import load_pipeline

    return load_pipeline(model_folder, device="cpu")


@pytest.fixture
def model(_loaded: LoadedModel, model_folder: Path) -> LoadedModel:
    """The tiny model, loaded; its own pictures are 64 x 64. A copy: a test may change it."""
    pipeline = copy.deepcopy(_loaded.pipeline)
    # A copied tokenizer has lost its decoder: it writes "red</w>beach</w>".
    own = type(pipeline.tokenizer).from_pretrained(model_folder / "tokenizer")
    pipeline.register_modules(tokenizer=own)
    return replace(_loaded, pipeline=pipeline)
