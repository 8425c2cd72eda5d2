"""ControlNet, adapter and few-step LoRA begin as nothing, and learn by their equations."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from torch import Tensor

from masactrl.puppets.training.data import PictureCache, open_pictures
from masactrl.puppets.training.model import (
    LATENT_CHANNELS,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
)
from masactrl.puppets.training.tokenizer import build_tokenizer
from masactrl.puppets.training.train import Captioned, as_pipeline
from masactrl.puppets.training.train_layout import build_adapter, build_controlnet, train_layout
from masactrl.puppets.training.train_lcm import clean, scalings, train_lcm, with_lora

COUNT = 8


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    network = Captioned(text, build_unet())
    return as_pipeline(build_vae(), network, tokenizer, build_scheduler())


@pytest.fixture
def posed(tmp_path: Path) -> PictureCache:
    return open_pictures(tmp_path / "posed", count=COUNT, size=64, seed=0, posed=True)


def some_latents() -> Tensor:
    return torch.randn(COUNT, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    z = torch.randn(2, LATENT_CHANNELS, 8, 8, generator=g)
    return z, torch.tensor([900, 40]), torch.randn(2, 77, 192, generator=g)


@torch.no_grad()
def test_a_new_controlnet_changes_nothing(pipeline: StableDiffusionPipeline) -> None:
    z, t, states = inputs()
    network = build_controlnet(pipeline.unet)
    shown = torch.rand(2, 3, 64, 64)
    down, middle = network(z, t, states, controlnet_cond=shown, return_dict=False)
    plain = pipeline.unet(z, t, states).sample
    beside = pipeline.unet(
        z,
        t,
        states,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    assert torch.equal(plain, beside)


@torch.no_grad()
def test_a_new_lora_changes_nothing_and_leaves_the_teacher(
    pipeline: StableDiffusionPipeline,
) -> None:
    z, t, states = inputs()
    names = list(pipeline.unet.state_dict())
    student = with_lora(pipeline.unet)
    assert torch.equal(pipeline.unet(z, t, states).sample, student(z, t, states).sample)
    assert list(pipeline.unet.state_dict()) == names
    trained = [n for n, p in student.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    # At most 4 MB of float16, as it is shipped.
    assert sum(p.numel() for p in student.parameters() if p.requires_grad) * 2 < 4e6


def test_the_sizes_that_are_shipped(pipeline: StableDiffusionPipeline) -> None:
    controlnet = sum(p.numel() for p in build_controlnet(pipeline.unet).parameters())
    adapter = sum(p.numel() for p in build_adapter(pipeline.unet).parameters())
    assert controlnet * 2 < 16e6
    assert adapter * 2 < 4e6


def test_scalings_are_those_of_the_lcm_scheduler() -> None:
    scheduler = LCMScheduler.from_config(build_scheduler().config)
    t = torch.tensor([0, 1, 19, 519, 999])
    c_skip, c_out = scalings(t)
    for k, step in enumerate(t.tolist()):
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(step)
        assert c_skip[k].item() == pytest.approx(float(skip), abs=1e-6)
        assert c_out[k].item() == pytest.approx(float(out), abs=1e-6)
    assert (c_skip[0].item(), c_out[0].item()) == (1.0, 0.0)


def test_the_clean_latent_is_found_from_its_noise() -> None:
    g = torch.Generator().manual_seed(3)
    z_0, eps = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 4, 8, 8, generator=g)
    a = torch.tensor([0.9, 0.1]).view(2, 1, 1, 1)
    z_t = a.sqrt() * z_0 + (1 - a).sqrt() * eps
    assert torch.allclose(clean(z_t, eps, a), z_0, atol=1e-5)


@pytest.mark.parametrize("stage", ["controlnet", "adapter"])
def test_an_adapter_trains_goes_on_and_leaves_the_model(
    stage: str, pipeline: StableDiffusionPipeline, posed: PictureCache, tmp_path: Path
) -> None:
    if stage == "adapter":
        pytest.importorskip("cv2")
    before = copy.deepcopy(pipeline.unet.state_dict())
    records: list[dict[str, float]] = []

    def run(budget: float) -> torch.nn.Module:
        return train_layout(
            stage,  # type: ignore[arg-type]
            pipeline,
            some_latents(),
            posed,
            tmp_path / stage,
            budget=budget,
            batch=2,
            on_record=records.append,  # type: ignore[arg-type]
        )

    first = run(0.01)
    assert records[0]["step"] == 0
    assert 0 < records[0]["loss"] < 100
    again = run(0.01)  # the budget is spent
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    further = run(3.0)  # goes on, from another step than the first
    pairs = zip(first.parameters(), further.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    after = pipeline.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_lora_trains_and_goes_on(
    pipeline: StableDiffusionPipeline, posed: PictureCache, tmp_path: Path
) -> None:
    before = copy.deepcopy(pipeline.unet.state_dict())
    made = [
        train_lcm(pipeline, some_latents(), posed, tmp_path / "lcm", budget=budget, batch=2)
        for budget in (0.01, 3.0)
    ]
    assert made[0].keys() == made[1].keys()
    assert any(not torch.equal(made[0][name], made[1][name]) for name in made[0])
    after = pipeline.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
