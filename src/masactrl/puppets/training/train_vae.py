"""Train the autoencoder, first on crops, then on whole pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from masactrl.puppets.training.data import PictureCache
from masactrl.puppets.training.model import SCALING_FACTOR, build_vae
from masactrl.puppets.training.optimizer import MuonAdamW
from masactrl.puppets.training.run import Ema, OnRecord, Run, psnr

_KL = 1e-4  # weight of the mean divergence per latent value: smooth latents that diffuse easily
_WHOLE = 0.75  # share of the budget after which whole pictures replace crops


def _crops(cache: PictureCache, count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, 3, side, side) in [-1, 1]; three in four from the band where the animals are."""
    total, size = len(cache.scenes), cache.images.shape[-1]
    room = size - side
    out = torch.empty(count, 3, side, side)
    index = torch.randint(total, (count,), generator=generator).tolist()
    u = torch.rand(count, 3, generator=generator).tolist()
    for k, (i, (a, b, c)) in enumerate(zip(index, u, strict=True)):
        left = round(a * room)
        top = round((0.4 + 0.6 * b) * room if c < 0.75 else b * room)
        piece = cache.images[i, :, top : top + side, left : left + side]
        out[k] = torch.from_numpy(piece.copy())
    return out.div_(127.5).sub_(1)


def train_vae(
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    seed: int = 0,
    device: str = "cpu",
    on_record: OnRecord | None = None,
) -> AutoencoderKL:
    """Train and return the autoencoder with SD's latent scale folded into its weights.

    Args:
        cache: training pictures.
        directory: checkpoints and log; an existing checkpoint is continued.
        budget: seconds of training over all sessions.
    """
    torch.manual_seed(seed)  # a training run owns its process: initial weights, posterior samples
    generator = torch.Generator().manual_seed(seed)
    vae = build_vae().to(device).train()
    ema = Ema(vae, 0.998)
    optimizer = MuonAdamW(vae, lr=2e-3, weight_decay=0.0)
    run = Run(
        directory=directory, budget=budget, learning_rate=2e-3, decay=0.5, on_record=on_record
    )
    side = cache.images.shape[-1]
    for step in run.steps({"vae": vae, "ema": ema}, optimizer):
        whole = run.progress > _WHOLE
        real = _crops(cache, 4 if whole else 8, side if whole else side // 2, generator).to(device)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(real).latent_dist
            fake = vae.decode(posterior.sample()).sample
        error = fake.float() - real
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = F.mse_loss(fake.float(), real) * 4 + error.abs().mean() + _KL * divergence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.update(vae)
        if step % 100 == 0:
            run.record(
                loss=loss.item(),
                psnr=psnr(fake.detach(), real, span=2.0).mean().item(),
                kl=divergence.item(),
                rate=run.rate(),
            )
    return fold_scale(ema.module, cache, device=device)


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, cache: PictureCache, *, device: str) -> AutoencoderKL:
    """Make every latent channel have mean 0 and standard deviation 1 / `SCALING_FACTOR`.

    The change is exact: the 1x1 convolutions on both sides of the latent absorb it.
    """
    index = torch.arange(0, len(cache.scenes), max(1, len(cache.scenes) // 1024))
    means = torch.cat(
        [vae.encode(cache.batch(part, device)).latent_dist.mean for part in index.split(64)]
    )
    centre = means.mean((0, 2, 3))
    gain = 1 / (SCALING_FACTOR * means.std((0, 2, 3)))
    channels = centre.numel()
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] *= gain[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - centre) * gain
    quant.bias[channels:] += 2 * gain.log()  # the posterior's log-variance follows
    post.bias += (post.weight[:, :, 0, 0] * centre).sum(1)
    post.weight /= gain[None, :, None, None]
    return vae


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(n, 3, h, w) in [-1, 1] -> (n,) dB of decode(mean of encode), pictures clipped to range."""
    made = torch.cat(
        [vae.decode(vae.encode(p).latent_dist.mean).sample.clamp(-1, 1) for p in pictures.split(32)]
    )
    return psnr(made, pictures, span=2.0)
