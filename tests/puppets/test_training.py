"""The recipe runs, resumes and ends in a model that stock diffusers loads; quality is measured
elsewhere, on the shipped weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, T2IAdapter
from safetensors.torch import load_file

from masactrl.errors import ConfigError
from masactrl.puppets.scene import sample_scenes
from masactrl.puppets.training.alignment import Alignment
from masactrl.puppets.training.data import open_pictures
from masactrl.puppets.training.model import build_scheduler, build_unet, build_vae
from masactrl.puppets.training.optimizer import Muon
from masactrl.puppets.training.recipe import STAGES, Recipe, train_puppets
from masactrl.puppets.training.run import Run
from masactrl.puppets.training.tokenizer import build_tokenizer
from masactrl.puppets.training.train import (
    Noising,
    foreground_weights,
    spread_timesteps,
    tokenised,
    train_diffusion,
)
from masactrl.puppets.training.train_decoder import drawing_loss, train_decoder
from masactrl.puppets.words import parse

COUNT = 8


@pytest.fixture
def pictures(tmp_path: Path):  # type: ignore[no-untyped-def]
    return open_pictures(tmp_path / "pictures", count=COUNT, size=64, seed=0)


def test_the_animal_weighs_more_and_every_picture_the_same(pictures) -> None:  # type: ignore[no-untyped-def]
    weights = foreground_weights(pictures, 8, 8).float()
    assert weights.shape == (COUNT, 1, 8, 8)
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(COUNT), atol=2e-3)
    mask = torch.from_numpy(pictures.masks[:]).float()[:, None] / 255
    animal = torch.nn.functional.adaptive_avg_pool2d(mask, (8, 8))
    assert (weights[animal > 0.9].min() > weights[animal == 0].max()).item()


def test_timesteps_are_spread_over_the_whole_schedule() -> None:
    t = spread_timesteps(50, 1000, torch.Generator().manual_seed(0))
    assert sorted((t // 20).tolist()) == list(range(50))


def test_most_timesteps_lie_above_the_lowest_and_a_few_below() -> None:
    t = spread_timesteps(64, 1000, torch.Generator().manual_seed(0), lowest=600)
    assert (t < 600).sum() == 8
    assert t.max() >= 990
    assert (t >= 600).sum() == 56


def test_noise_is_the_schedules_and_its_offset_is_shared_by_a_channel() -> None:
    alpha_bar = build_scheduler().alphas_cumprod
    z_0 = torch.zeros(64, 16, 8, 8)
    generator = torch.Generator().manual_seed(0)
    z_t, t, eps = Noising(alpha_bar).draw(z_0, generator)
    assert torch.allclose(z_t, (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1) * eps)
    assert eps.mean((2, 3)).std() == pytest.approx(1 / 8, rel=0.1)  # 64 cells' chance
    shared = Noising(alpha_bar, offset=1.0).draw(z_0, generator)[2].mean((2, 3))
    assert shared.std() == pytest.approx((1 + 1 / 64) ** 0.5, rel=0.1)


def test_captions_are_written_before_the_first_step() -> None:
    tokenizer = build_tokenizer()
    scenes = sample_scenes(3, seed=0)
    ids = tokenised(scenes, tokenizer, torch.Generator().manual_seed(0))
    assert ids.shape[::2] == (3, 77)
    for scene, rows in zip(scenes, ids, strict=True):
        read = {parse(tokenizer.decode(row, skip_special_tokens=True)).species for row in rows}
        assert read <= {scene.identity.species, None}
        assert len({tuple(row.tolist()) for row in rows}) > 1


def test_muon_is_torchs_own_with_matrices_of_one_shape_together() -> None:
    torch.manual_seed(0)
    shapes = [(8, 12), (8, 12), (12, 8), (6, 2, 3, 3)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.data.clone().reshape(len(p), -1)) for p in ours]
    batched = Muon(ours, lr=0.02, weight_decay=0.01)
    single = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.reshape(other.shape).clone()
        batched.step()
        single.step()
    for one, other in zip(ours, theirs, strict=True):
        # torch's iterates in bfloat16, ours in float32 on a CPU
        assert torch.allclose(one.reshape(other.shape), other, atol=2e-3)


def test_pictures_are_the_same_from_any_number_of_processes(tmp_path: Path) -> None:
    one, two = (
        open_pictures(tmp_path / str(n), count=260, size=64, seed=5, workers=n) for n in (1, 2)
    )
    assert (one.images == two.images).all()
    assert (one.masks == two.masks).all()


def test_pictures_of_another_recipe_are_refused(pictures, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="another directory"):
        open_pictures(tmp_path / "pictures", count=COUNT, size=128, seed=0)


def test_alignment_watches_only_while_entered() -> None:
    unet = build_unet()
    alignment = Alignment(unet, 5)
    given = torch.randn(2, 16, 8, 8), torch.tensor([3, 900]), torch.randn(2, 77, 192)
    with alignment:
        unet(given[0], given[1], encoder_hidden_states=given[2])
        distance = alignment.distance(torch.randn(2, 5, 4, 4))
        distance.backward()
    assert 0 <= distance.item() <= 2
    assert unet.conv_in.weight.grad.abs().sum() > 0  # it teaches the U-Net, not only itself
    assert not any(m._forward_hooks for m in unet.modules())
    with pytest.raises(RuntimeError, match="was not called"):
        alignment.distance(torch.randn(2, 5, 4, 4))


def test_a_run_resumes_where_it_stopped(pictures, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    steps: list[int] = []

    def run(budget: float) -> StableDiffusionPipeline:
        return train_diffusion(
            build_vae(),
            pictures,
            tmp_path / "run",
            budget=budget,
            batch=2,
            on_sample=lambda step, _: steps.append(step),
            sample_every=-1.0,
        )

    run(0.01)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert checkpoint["run"]["step"] == len(steps) == 1
    pipeline = run(checkpoint["run"]["seconds"] + 0.01)
    assert steps == [0, 1]
    pipeline.save_pretrained(tmp_path / "model")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert again.scheduler.config.prediction_type == build_scheduler().config.prediction_type


def test_a_trained_decoder_keeps_the_latents(pictures, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    vae = build_vae()
    before = copy.deepcopy(vae.state_dict())
    train_decoder(vae, torch.randn(COUNT, 16, 8, 8), pictures, tmp_path, budget=0.01, batch=2)
    changed = {k for k, v in vae.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith(("decoder.", "post_quant_conv.")) for k in changed)


def test_a_mistake_on_the_animal_costs_more() -> None:
    real, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    on, off = real.clone(), real.clone()
    on[..., 4, 3] += 1
    off[..., 4, 12] += 1
    assert drawing_loss(real, real, mask) == 0
    assert drawing_loss(on, real, mask) == pytest.approx(3 * drawing_loss(off, real, mask).item())


def test_the_rate_warms_up_stays_and_falls(tmp_path: Path) -> None:
    run = Run(directory=tmp_path, budget=100.0, learning_rate=1.0, decay=0.5, warmup_steps=10)
    assert run.rate() == pytest.approx(0.1)
    run.step, run.seconds = 20, 40.0
    assert run.rate() == 1.0
    run.seconds = 75.0
    assert run.rate() == pytest.approx(0.5)
    run.seconds = 100.0
    assert run.rate() == pytest.approx(1e-3)


def test_the_whole_recipe_ends_in_a_model(tmp_path: Path) -> None:
    seen: set[str] = set()
    recipe = Recipe(
        directory=tmp_path,
        minutes=0.001,
        pictures=64,
        posed=64,
        size=64,
        batch=2,
        pixel_batch=8,
    )
    folder = train_puppets(recipe, on_record=lambda stage, _: seen.add(stage))
    assert seen == set(STAGES)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.load_lora_weights(folder / "lcm")
    pipeline.unload_lora_weights()
    whole = {"torch_dtype": torch.float32}
    assert ControlNetModel.from_pretrained(folder / "controlnet", **whole).dtype == torch.float32
    assert T2IAdapter.from_pretrained(folder / "adapter", **whole).config.in_channels == 1
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size
    assert not [f for f in folder.rglob("*.json") if str(tmp_path) in f.read_text("utf-8")]
    log = (tmp_path / "diffusion" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["step"] == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stages": ("paint",)}, "must be some of"),
        ({"minutes": 0.0}, "above 0"),
        ({"pictures": 3}, "at least 64"),
        ({"posed": 3}, "at least 64"),
        ({"size": 100}, "multiple of 64"),
        ({"batch": 0}, "1 or more"),
        ({"pixel_batch": 0}, "1 or more"),
        ({"workers": 0}, "1 or more"),
        ({"lowest": 1000}, "0 to 999"),
        ({"offset_noise": 2.0}, r"deviation in \[0, 1\]"),
        ({"learning_rate": 0.0}, "give one in"),
        ({"ema_decay": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_impossible_recipes_are_refused(
    tmp_path: Path, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        Recipe(directory=tmp_path, **wrong)  # type: ignore[arg-type]


def test_the_diffusion_stage_needs_an_autoencoder(tmp_path: Path) -> None:
    recipe = Recipe(directory=tmp_path, pictures=64, size=64, stages=("diffusion",))
    with pytest.raises(ConfigError, match="run the stage 'vae' first"):
        train_puppets(recipe)


def test_what_is_trained_beside_the_model_needs_the_model(tmp_path: Path) -> None:
    recipe = Recipe(directory=tmp_path, pictures=64, posed=64, size=64, stages=("lcm",))
    with pytest.raises(ConfigError, match="run the stage 'diffusion' first"):
        train_puppets(recipe)


def test_posed_pictures_are_another_set(tmp_path: Path) -> None:
    open_pictures(tmp_path / "posed", count=COUNT, size=64, seed=0, posed=True)
    with pytest.raises(ConfigError, match="choose another directory"):
        open_pictures(tmp_path / "posed", count=COUNT, size=64, seed=0)


def test_a_later_decoder_leaves_the_u_net_that_was_trained(tmp_path: Path) -> None:
    common = {"pictures": 64, "size": 64, "batch": 2, "pixel_batch": 2, "align": False}
    start = train_puppets(
        Recipe(
            directory=tmp_path / "a",
            minutes=0.001,
            stages=("vae", "diffusion"),
            **common,  # type: ignore[arg-type]
        )
    )

    def further(stage: str, minutes: float) -> dict[str, torch.Tensor]:
        recipe = Recipe(
            directory=tmp_path / "b",
            minutes=minutes,
            stages=(stage,),
            start_from=start,
            **common,  # type: ignore[arg-type]
        )
        return load_file(train_puppets(recipe) / "unet" / "diffusion_pytorch_model.safetensors")

    trained = further("diffusion", 0.05)
    before = load_file(start / "unet" / "diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    kept = further("decoder", 0.001)
    assert all(torch.equal(trained[name], kept[name]) for name in trained)
