"""Train text encoder and U-Net together on the latents of rendered scenes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from masactrl.puppets.alignment import Alignment, encode_features
from masactrl.puppets.captions import caption
from masactrl.puppets.data import PictureCache
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.model import (
    SCALING_FACTOR,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from masactrl.puppets.optimizer import MuonAdamW
from masactrl.puppets.scene import Scene
from masactrl.puppets.tokenizer import build_tokenizer
from masactrl.puppets.training import Ema, OnRecord, Run, animal_weight

# The noise loss alone weighs an error of the clean picture by the signal-to-noise ratio, so layout,
# decided at high noise, is learned last: SNR^(-1/2) evens it out (Yu et al. 2023, debiased loss).
_SNR_POWER = 0.5
_ALIGN = 0.1  # lambda of `alignment`, a like share of the loss as in its paper
_NO_CAPTION = 0.1  # share of empty captions, for classifier-free guidance


@torch.no_grad()
def encode_latents(
    vae: AutoencoderKL,
    cache: PictureCache,
    path: Path,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Scaled posterior means of all pictures, (count, channels, h, w) float16; kept at ``path``."""
    if path.exists():
        latents: Tensor = torch.load(path, weights_only=True)
        if len(latents) == len(cache.scenes):
            return latents
    parts = []
    for index in torch.arange(len(cache.scenes)).split(64):
        with torch.autocast(device, torch.bfloat16):
            mean = vae.encode(cache.batch(index).to(device)).latent_dist.mean
        parts.append((mean.float() * SCALING_FACTOR).half().cpu())
        if on_progress is not None:
            on_progress(int(index[-1]) + 1, len(cache.scenes))
    latents = torch.cat(parts)
    torch.save(latents, path)
    return latents


def foreground_weights(cache: PictureCache, height: int, width: int) -> Tensor:
    """(count, 1, height, width) float16 loss weights: more on the animal, mean 1 per picture."""
    parts = []
    for index in torch.arange(len(cache.scenes)).split(512):
        mask = torch.from_numpy(cache.masks[index.numpy()])[:, None].float() / 255
        cells = nn.functional.adaptive_avg_pool2d(mask, (height, width))
        parts.append(animal_weight(cells).half())
    return torch.cat(parts)


class Captioned(nn.Module):
    """Text encoder and U-Net as one module, so that one EMA and one optimizer hold both."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """(n, c, h, w), (n,), (n, 77) -> predicted noise (n, c, h, w)."""
        states = self.text_encoder(tokens).last_hidden_state
        predicted: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=states).sample
        return predicted


@dataclass(frozen=True, slots=True)
class _Batches:
    """Draws training batches: which pictures, and token ids of a fresh caption of each."""

    latents: Tensor
    weights: Tensor
    scenes: tuple[Scene, ...]
    tokenizer: CLIPTokenizer
    generator: torch.Generator

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(self.scenes), (count,), generator=self.generator)
        empty = torch.rand(count, generator=self.generator) < _NO_CAPTION
        words = [
            "" if none else caption(self.scenes[i], self.generator)
            for i, none in zip(index.tolist(), empty.tolist(), strict=True)
        ]
        tokens = self.tokenizer(
            words, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        return index, tokens


def spread_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """(count,) timesteps in [0, total), one from each of ``count`` equal bins: less variance."""
    u = (
        torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    ) / count
    return (u * total).long().clamp(max=total - 1)


def train_diffusion(
    vae: AutoencoderKL,
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    batch: int = 32,
    learning_rate: float = 1e-3,
    decay: float = 0.35,
    seed: int = 0,
    device: str = "cpu",
    stop_after: float | None = None,
    latents: Tensor | None = None,
    start_from: StableDiffusionPipeline | None = None,
    inspector: Inspector | None = None,
    on_record: OnRecord | None = None,
    on_sample: Callable[[int, StableDiffusionPipeline], None] | None = None,
    sample_every: float = 900.0,
) -> StableDiffusionPipeline:
    """Train (or continue) and return the pipeline with averaged weights.

    Args:
        vae: trained autoencoder with the scale folded in.
        cache: training pictures with their scenes.
        directory: checkpoints, log and cached latents.
        budget: seconds of the whole run; see `Run`.
        batch: pictures per step.
        learning_rate, decay: see `Run`.
        stop_after: seconds of this session, for machines lent by the minute.
        latents: (count, c, h, w) scaled latents if already known.
        start_from: a trained model whose weights a new run begins with; a checkpoint goes before.
        inspector: what the U-Net's middle is aligned to, see `alignment`; None aligns nothing.
        on_sample: called now and then with (step, pipeline) to draw a sample sheet.
    """
    torch.manual_seed(seed)  # a training run owns its process
    generator = torch.Generator()
    directory.mkdir(parents=True, exist_ok=True)
    if latents is None:
        latents = encode_latents(vae, cache, directory / "latents.pt", device=device)
    tokenizer = build_tokenizer()
    network = Captioned(
        build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id),
        build_unet(),
    )
    if start_from is not None:
        network.text_encoder.load_state_dict(start_from.text_encoder.float().state_dict())
        network.unet.load_state_dict(start_from.unet.float().state_dict())
    network = network.to(device).train()
    if torch.device(device).type == "cpu":
        # The fused kernel's backward pass is three times slower on a CPU at these sizes.
        network.unet.set_attn_processor(AttnProcessor())
    ema = Ema(network, 0.998)
    optimizer = MuonAdamW(network, lr=learning_rate)
    scheduler = build_scheduler()
    alpha_bar = scheduler.alphas_cumprod
    weights = foreground_weights(cache, *latents.shape[-2:])
    batches = _Batches(latents, weights, cache.scenes, tokenizer, generator)
    run = Run(
        directory=directory,
        budget=budget,
        learning_rate=learning_rate,
        decay=decay,
        on_record=on_record,
        stop_after=stop_after,
    )
    parts: dict[str, object] = {"network": network, "ema": ema}
    alignment, seen = None, None
    if inspector is not None:
        seen = encode_features(inspector, cache, directory / "features.pt", device=device)
        alignment = Alignment(network.unet, seen.shape[1]).to(device)
        parts |= {"alignment": alignment, "aligner": (aligner := _aligner(alignment))}
    sampled, smooth, apart = run.seconds, 0.0, 0.0
    begun = False
    with alignment or nullcontext():
        for step in run.steps(parts, optimizer):
            if not begun:  # a resumed run draws new pictures, not the first ones again
                generator.manual_seed(seed + 1 + step)
                begun = True
            index, tokens = batches.draw(batch)
            loss = _denoising_loss(network, batches, index, tokens, alpha_bar, device)
            total = loss
            if alignment is not None and seen is not None:
                distance = alignment.distance(seen[index].to(device))
                total = loss + _ALIGN * distance
                apart = 0.98 * apart + 0.02 * distance.item()
                aligner.zero_grad()
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if alignment is not None:
                aligner.step()
            ema.update(network)
            smooth = loss.item() if smooth == 0 else 0.98 * smooth + 0.02 * loss.item()
            if step % 100 == 0:
                run.record(loss=smooth, apart=apart, rate=run.rate(), images=float(step * batch))
            if on_sample is not None and run.seconds - sampled > sample_every:
                sampled = run.seconds
                on_sample(step, as_pipeline(vae, ema.module, tokenizer, scheduler))
    return as_pipeline(vae, ema.module, tokenizer, scheduler)


def _aligner(alignment: Alignment) -> torch.optim.Optimizer:
    return torch.optim.AdamW(alignment.parameters(), lr=1e-3, weight_decay=0.0)


def _denoising_loss(
    network: Captioned,
    batches: _Batches,
    index: Tensor,
    tokens: Tensor,
    alpha_bar: Tensor,
    device: str,
) -> Tensor:
    """The weighted error of the noise predicted from z_t = sqrt(a) z_0 + sqrt(1 - a) eps."""
    z_0, where = batches.latents[index].float(), batches.weights[index].float()
    t = spread_timesteps(len(index), len(alpha_bar), batches.generator)
    eps = torch.randn(z_0.shape, generator=batches.generator)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    z_t = a.sqrt() * z_0 + (1 - a).sqrt() * eps
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    weight = (snr**-_SNR_POWER).clamp(max=10.0).to(device)
    with torch.autocast(device, torch.bfloat16):
        predicted = network(z_t.to(device), t.to(device), tokens.to(device))
    error = (where.to(device) * (predicted.float() - eps.to(device)).square()).mean((1, 2, 3))
    loss: Tensor = (weight * error).mean()
    return loss


def as_pipeline(
    vae: AutoencoderKL, network: nn.Module, tokenizer: CLIPTokenizer, scheduler: DDIMScheduler
) -> StableDiffusionPipeline:
    """The parts as a stock pipeline (no safety checker, no feature extractor)."""
    if not isinstance(network, Captioned):
        raise TypeError(f"network must be Captioned, not {type(network).__name__}.")
    network.unet.set_attn_processor(AttnProcessor2_0())
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=network.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=network.unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
