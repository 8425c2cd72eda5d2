"""`puppets-sd3`: what training sees is what the stock pipeline does, and the recipe ends in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from masactrl.errors import ConfigError
from masactrl.models import read_preset
from masactrl.puppets.training import joint
from masactrl.puppets.training.alignment import Alignment
from masactrl.puppets.training.model import build_vae
from masactrl.puppets.training.recipe import Recipe, train_puppets
from masactrl.puppets.training.tokenizer import build_tokenizer

PROMPTS = ["a red fox runs in a meadow", "a cat"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of width 32 instead of eight of 256."""
    build = joint.build_transformer
    monkeypatch.setattr(joint, "build_transformer", lambda: build(blocks=2, heads=2, head_width=16))


def _awake(network: torch.nn.Module) -> torch.nn.Module:
    """The network with weights where it begins with zeros."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.usefixtures("small")
def test_one_heavy_token_is_the_256_empty_ones_of_the_stock_pipeline() -> None:
    tokenizer = build_tokenizer()
    network = _awake(joint.JointCaptioned.built(tokenizer))
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    z, t = torch.randn(2, 16, 8, 8), torch.tensor([300.0, 900.0])
    with torch.no_grad():
        trained = network(z, t, ids)
        pipeline = joint.as_sd3_pipeline(build_vae(), network, tokenizer)
        text, _, pooled, _ = pipeline.encode_prompt(
            PROMPTS, None, None, do_classifier_free_guidance=False
        )
        assert text.shape[1] == 77 + joint.EMPTY_TOKENS
        (stock,) = pipeline.transformer(
            z, encoder_hidden_states=text, pooled_projections=pooled, timestep=t, return_dict=False
        )
    assert stock.std() > 0.1
    assert torch.allclose(trained, stock, atol=1e-5)


def test_flow_noise_is_a_straight_line_drawn_as_sd3_draws_it() -> None:
    z_0 = torch.randn(512, 1, 2, 2)
    z_s, t, v = joint.FlowNoising(shift=1.0).draw(z_0, torch.Generator().manual_seed(0))
    s = (t / 1000).view(-1, 1, 1, 1)
    assert torch.allclose(z_s, z_0 + s * v, atol=1e-5)  # eps = z_0 + v
    logits = torch.logit(t / 1000)
    assert abs(logits.mean()) < 0.02
    assert logits.std() == pytest.approx(1, abs=0.02)
    shifted = joint.FlowNoising(shift=2.0).draw(z_0, torch.Generator().manual_seed(0))[1] / 1000
    assert torch.allclose(shifted, 2 * (t / 1000) / (1 + t / 1000))


@pytest.mark.usefixtures("small")
def test_alignment_reads_the_patches_of_a_joint_block() -> None:
    network = _awake(joint.JointCaptioned.built(build_tokenizer()))
    alignment = Alignment(network.transformer, 5)
    with alignment:
        network(torch.randn(2, 16, 8, 4), torch.tensor([3.0, 900.0]), torch.zeros(2, 77).long())
        assert alignment._seen.shape == (2, 32, 4, 2)  # type: ignore[union-attr]
        alignment.distance(torch.randn(2, 5, 4, 4)).backward()
    assert network.transformer.pos_embed.proj.weight.grad.abs().sum() > 0
    assert not any(m._forward_hooks for m in network.transformer.modules())


@pytest.mark.usefixtures("small")
def test_the_recipe_ends_in_a_stock_pipeline_and_resumes(tmp_path: Path) -> None:
    common = {"directory": tmp_path, "pictures": 64, "size": 64, "batch": 2, "family": "sd3"}
    folder = train_puppets(Recipe(minutes=0.0002, **common))  # type: ignore[arg-type]

    def steps() -> int:
        kept = torch.load(tmp_path / "diffusion" / "checkpoint.pt", weights_only=True)
        return int(kept["run"]["step"])

    assert (first := steps()) > 0
    tokens = tmp_path / "diffusion" / "tokens.pt"
    written = tokens.stat().st_mtime_ns
    again = train_puppets(Recipe(minutes=0.01, **common))  # type: ignore[arg-type]
    assert steps() > first
    assert tokens.stat().st_mtime_ns == written
    pipeline = StableDiffusion3Pipeline.from_pretrained(again, dtype=torch.float32, **joint.NO_T5)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a cat", num_inference_steps=1, output_type="pt", height=64, width=64)
    assert picture.images.isfinite().all()
    assert read_preset(folder)[0] == "puppets-sd3"  # type: ignore[index]
    # A further run begins with all of its weights.
    other = Recipe(**{**common, "directory": tmp_path / "b"}, minutes=1e-9, start_from=folder)  # type: ignore[arg-type]
    name = "transformer/diffusion_pytorch_model.safetensors"
    started = load_file(train_puppets(other) / name)
    for key, value in load_file(folder / name).items():  # one small step further
        assert torch.allclose(value, started[key], atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"stages": ("vae",)}, "the family sd3 has pictures and diffusion"), ({"lowest": 3}, "sd3")],
)
def test_what_sd3_has_no_use_for_is_refused(
    tmp_path: Path, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        Recipe(directory=tmp_path, family="sd3", **wrong)  # type: ignore[arg-type]
