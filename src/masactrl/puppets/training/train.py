"""Train text encoder and denoiser together on the latents of rendered scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from masactrl.puppets.captions import caption
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.scene import Scene
from masactrl.puppets.training.alignment import Alignment, encode_features
from masactrl.puppets.training.data import PictureCache
from masactrl.puppets.training.joint import ENDS, FlowNoising, JointCaptioned, as_sd3_pipeline
from masactrl.puppets.training.model import (
    SCALING_FACTOR,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from masactrl.puppets.training.optimizer import MuonAdamW
from masactrl.puppets.training.run import Ema, OnRecord, Run, animal_weight, placed
from masactrl.puppets.training.tokenizer import build_tokenizer

# The noise loss alone weighs an error of the clean picture by the signal-to-noise ratio, so layout,
# decided at high noise, is learned last: SNR^(-1/2) evens it out (Yu et al. 2023, debiased loss).
_SNR_POWER = 0.5
# lambda of `alignment`: a like share of the loss as in its paper, whose own is SD3's.
_ALIGN = {"sd": 0.1, "sd3": 0.5}
_NO_CAPTION = 0.1  # share of empty captions, for classifier-free guidance
_CAPTIONS = 6  # captions written of each scene before the run; a step draws one
_BELOW = 8  # with a lowest timestep, one picture in so many is noised less than that

TrainedPipeline: TypeAlias = StableDiffusionPipeline | StableDiffusion3Pipeline
TrainedFamily = Literal["sd", "sd3"]
"""What is trained: SD 1.x's U-Net, or SD3's transformer with flow matching (see `joint`)."""


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
            mean = vae.encode(cache.batch(index, device)).latent_dist.mean
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


def tokenised(
    scenes: Sequence[Scene],
    tokenizer: CLIPTokenizer,
    generator: torch.Generator,
    path: Path | None = None,
) -> Tensor:
    """(scenes, 6, 77) int16 ids of captions of each scene, written before the first step.

    Writing and tokenising them at every step kept a GPU waiting for Python. Kept at ``path``.
    """
    if path is not None and path.exists():
        known: Tensor = torch.load(path, weights_only=True)
        if len(known) == len(scenes):
            return known
    parts = []
    for at in range(0, len(scenes), 1024):
        words = [caption(s, generator) for s in scenes[at : at + 1024] for _ in range(_CAPTIONS)]
        ids = tokenizer(
            words, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        parts.append(ids.to(torch.int16).unflatten(0, (-1, _CAPTIONS)))
    tokens = torch.cat(parts)
    if path is not None:
        torch.save(tokens, path)
    return tokens


def tokenised_empty(tokenizer: CLIPTokenizer) -> Tensor:
    """(77,) int64 ids of the empty caption."""
    ids: Tensor = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    return ids[0]


@dataclass(frozen=True, slots=True)
class Batches:
    """The training set on the device, and the batches drawn from it.

    Attributes:
        latents: (count, c, h, w) float16; weights: (count, 1, h, w) float16.
        tokens: (count, captions, 77) int16; empty: (77,) ids of the empty caption.
        generator: of the CPU, so that every device sees the same pictures.
        noise: of the device; noise drawn on the CPU kept a GPU waiting.
    """

    latents: Tensor
    weights: Tensor
    tokens: Tensor
    empty: Tensor
    generator: torch.Generator
    noise: torch.Generator

    @staticmethod
    def of(
        latents: Tensor,
        cache: PictureCache,
        tokenizer: CLIPTokenizer,
        *,
        seed: int,
        device: str,
        tokens: Path | None = None,
    ) -> Batches:
        """The set with its weights and captions; ``latents`` are those of ``cache``.

        ``tokens`` is where the captions' ids are kept.
        """
        generator = torch.Generator().manual_seed(seed)
        return Batches(
            latents.to(device),
            foreground_weights(cache, *latents.shape[-2:]).to(device),
            tokenised(cache.scenes, tokenizer, generator, tokens).to(device),
            tokenised_empty(tokenizer).to(device),
            generator,
            generator if torch.device(device).type == "cpu" else torch.Generator(device),
        )

    def begin(self, seed: int) -> None:
        """Draw from this seed on: a resumed run draws new pictures, not the first ones again."""
        self.generator.manual_seed(seed)
        if self.noise is not self.generator:
            self.noise.manual_seed(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """(count,) indices into the set, and (count, 77) token ids of one caption of each."""
        index = torch.randint(len(self.latents), (count,), generator=self.generator)
        which = torch.randint(self.tokens.shape[1], (count,), generator=self.generator)
        none = torch.rand(count, generator=self.generator) < _NO_CAPTION
        device = self.tokens.device
        words = self.tokens[index.to(device), which.to(device)].long()
        return index, torch.where(none.to(device)[:, None], self.empty, words)


def spread_timesteps(
    count: int, total: int, generator: torch.Generator, *, lowest: int = 0
) -> Tensor:
    """(count,) timesteps in [lowest, total), one from each of ``count`` equal bins: less variance.

    With ``lowest`` above 0, one in eight comes from below it, so that what is learned there stays.
    """
    u = (
        torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    ) / count
    t = (lowest + u * (total - lowest)).long().clamp(max=total - 1)
    if lowest:
        below = count // _BELOW
        t[:below] = torch.randint(lowest, (below,), generator=generator)
    return t


def train_diffusion(
    vae: AutoencoderKL,
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    batch: int = 32,
    learning_rate: float = 1e-3,
    decay: float = 0.35,
    ema_decay: float = 0.998,
    lowest: int = 0,
    offset_noise: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
    stop_after: float | None = None,
    latents: Tensor | None = None,
    start_from: TrainedPipeline | None = None,
    inspector: Inspector | None = None,
    family: TrainedFamily = "sd",
    on_record: OnRecord | None = None,
    on_sample: Callable[[int, TrainedPipeline], None] | None = None,
    sample_every: float = 900.0,
) -> TrainedPipeline:
    """Train (or continue) and return the pipeline with averaged weights.

    Args:
        vae: trained autoencoder with the scale folded in.
        cache: training pictures with their scenes.
        directory: checkpoints, log and cached latents.
        budget: seconds of the whole run; see `Run`.
        batch: pictures per step.
        learning_rate, decay: see `Run`.
        ema_decay: of the average that is returned; short runs want less than long ones.
        lowest: lowest timestep of seven pictures in eight, in [0, 1000), see `spread_timesteps`;
            the family "sd3" draws its timesteps in another way and has no use for it.
        offset_noise: standard deviation of the noise that all cells of a picture's channel share.
            With it the layout cannot be read from the mean of a noisy latent, which the end of SD's
            noise schedule still shows and pure noise does not have.
        stop_after: seconds of this session, for machines lent by the minute.
        latents: (count, c, h, w) scaled latents if already known.
        start_from: a trained model whose weights a new run begins with; a checkpoint goes before.
        inspector: what the denoiser's middle is aligned to, see `alignment`; None aligns nothing.
        family: see `TrainedFamily`; "sd3" begins with the text encoder of a `puppets` pipeline, or
            with all of a `puppets-sd3` one.
        on_sample: called now and then with (step, pipeline) to draw a sample sheet.
    """
    torch.manual_seed(seed)  # a training run owns its process
    directory.mkdir(parents=True, exist_ok=True)
    if latents is None:
        latents = encode_latents(vae, cache, directory / "latents.pt", device=device)
    tokenizer = build_tokenizer()
    kit = _sd3(tokenizer, start_from) if family == "sd3" else _sd(tokenizer, start_from)
    network, noising = placed(kit.network, device).train(), kit.noising(lowest, offset_noise)
    if torch.device(device).type == "cpu" and isinstance(network, Captioned):
        # The fused kernel's backward pass is three times slower on a CPU at these sizes.
        network.unet.set_attn_processor(AttnProcessor())
    ema = Ema(network, ema_decay)
    optimizer = MuonAdamW(network, lr=learning_rate, ends=kit.ends)
    kept = directory / "tokens.pt"
    batches = Batches.of(latents, cache, tokenizer, seed=seed, device=device, tokens=kept)
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
        alignment = Alignment(kit.denoiser, seen.shape[1]).to(device)
        parts |= {"alignment": alignment, "aligner": (aligner := _aligner(alignment))}
    sampled, smooth, apart = run.seconds, 0.0, 0.0
    begun = False
    with alignment or nullcontext():
        for step in run.steps(parts, optimizer):
            if not begun:
                batches.begin(seed + 1 + step)
                begun = True
            index, tokens = batches.draw(batch)
            loss = _denoising_loss(network, batches, index, tokens, noising, device)
            total = loss
            if alignment is not None and seen is not None:
                distance = alignment.distance(seen[index].to(device))
                total = loss + _ALIGN[family] * distance
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
                on_sample(step, kit.pipeline(vae, ema.module))
    return kit.pipeline(vae, ema.module)


class _Noising(Protocol):
    """`Noising` or `FlowNoising`: what a network is given and what it is to say."""

    def draw(
        self, z_0: Tensor, generator: torch.Generator, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def weight(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _Kit:
    """What a family brings: its network, of it the denoiser, its noise, its ends, its pipeline."""

    network: nn.Module
    denoiser: Any
    noising: Callable[[int, float], _Noising]
    ends: tuple[str, ...]
    pipeline: Callable[[AutoencoderKL, nn.Module], TrainedPipeline]


def _sd(tokenizer: CLIPTokenizer, start: Any) -> _Kit:
    network = Captioned(
        build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id),
        build_unet(),
    )
    if start is not None:
        network.text_encoder.load_state_dict(start.text_encoder.float().state_dict())
        network.unet.load_state_dict(start.unet.float().state_dict())
    scheduler = build_scheduler()
    return _Kit(
        network=network,
        denoiser=network.unet,
        noising=lambda lowest, offset: Noising(
            scheduler.alphas_cumprod, lowest=lowest, offset=offset
        ),
        ends=("embedding", "conv_in", "conv_out"),
        pipeline=partial(as_pipeline, tokenizer=tokenizer, scheduler=scheduler),
    )


def _sd3(tokenizer: CLIPTokenizer, start: Any) -> _Kit:
    network = JointCaptioned.built(tokenizer)
    if start is not None:
        network.begin_with(start)
    return _Kit(
        network=network,
        denoiser=network.transformer,
        noising=lambda _lowest, offset: FlowNoising(offset=offset),
        ends=ENDS,
        pipeline=partial(as_sd3_pipeline, tokenizer=tokenizer),
    )


def _aligner(alignment: Alignment) -> torch.optim.Optimizer:
    return torch.optim.AdamW(alignment.parameters(), lr=1e-3, weight_decay=0.0)


@dataclass(frozen=True, slots=True)
class Noising:
    """z_t = sqrt(a) z_0 + sqrt(1 - a) eps with a = ``alpha_bar[t]``; see `train_diffusion`."""

    alpha_bar: Tensor
    lowest: int = 0
    offset: float = 0.0

    def noise(self, z_0: Tensor, generator: torch.Generator) -> Tensor:
        """(n, c, h, w) like ``z_0``, drawn where the generator is."""
        where = generator.device
        eps = torch.randn(z_0.shape, generator=generator, device=where)
        if self.offset:
            shared = torch.randn(*z_0.shape[:2], 1, 1, generator=generator, device=where)
            eps = eps + self.offset * shared
        return eps.to(z_0.device)

    def draw(
        self, z_0: Tensor, generator: torch.Generator, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(n, c, h, w) -> z_t (n, c, h, w), t (n,), eps (n, c, h, w).

        Timesteps come from ``generator``, eps from ``noise`` where that is another one.
        """
        t = spread_timesteps(len(z_0), len(self.alpha_bar), generator, lowest=self.lowest)
        eps = self.noise(z_0, noise or generator)
        a = self.alpha_bar[t].view(-1, 1, 1, 1).to(z_0.device)
        return a.sqrt() * z_0 + (1 - a).sqrt() * eps, t, eps

    def weight(self, t: Tensor) -> Tensor:
        """(n,) timesteps -> (n,) SNR^(-1/2), at most 10."""
        snr = self.alpha_bar[t] / (1 - self.alpha_bar[t])
        return (snr**-_SNR_POWER).clamp(max=10.0)


def _denoising_loss(
    network: nn.Module,
    batches: Batches,
    index: Tensor,
    tokens: Tensor,
    noising: _Noising,
    device: str,
) -> Tensor:
    """The weighted error of what is said of z_t."""
    index = index.to(device)
    z_0, where = batches.latents[index].float(), batches.weights[index].float()
    z_t, t, wanted = noising.draw(z_0, batches.generator, batches.noise)
    with torch.autocast(device, torch.bfloat16):
        predicted = network(z_t, t.to(device), tokens)
    error = (where * (predicted.float() - wanted).square()).mean((1, 2, 3))
    loss: Tensor = (noising.weight(t).to(device) * error).mean()
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
