"""Train the autoencoder's decoder alone: sharper pictures from the same latents.

The latents stay what they are, so a U-Net trained on them stays valid, nothing is encoded again and
all the time goes into the half that draws. The decoder sees latents with a little noise, as those
that a U-Net makes are never exact, and learns to draw a clean line from them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from masactrl.puppets.training.data import PictureCache
from masactrl.puppets.training.model import SCALING_FACTOR
from masactrl.puppets.training.optimizer import MuonAdamW
from masactrl.puppets.training.run import Ema, OnRecord, Run, animal_weight, placed, psnr

_NOISE = 0.05  # standard deviation of the latents' noise; the latents' own is 1
_SHARP = 1.0  # weight of the finite differences' error: outlines


class _Decoder(nn.Module):
    """The half of the autoencoder after the latent."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """(n, c, h, w) scaled latents -> (n, 3, 8h, 8w), about [-1, 1]."""
        picture: Tensor = self.decoder(self.post_quant_conv(latents / SCALING_FACTOR))
        return picture


def train_decoder(
    vae: AutoencoderKL,
    latents: Tensor,
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    batch: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    on_record: OnRecord | None = None,
) -> AutoencoderKL:
    """Continue the decoder of a trained autoencoder; its encoder is left as it is.

    Args:
        vae: trained, with the scale folded in. Changed: its decoder gets the averaged weights.
        latents: (count, c, h, w) scaled latents of all pictures of ``cache``, see `encode_latents`.
        cache: training pictures with masks.
        directory: checkpoints and log; an existing checkpoint is continued.
        budget: seconds of training over all sessions; the rate falls over the last half.
        batch: pictures per step.
        learning_rate, seed, device, on_record: see `Run`.

    Returns:
        ``vae``.
    """
    torch.manual_seed(seed)  # a training run owns its process
    generator = torch.Generator()
    network = placed(_Decoder(vae), device).train()
    ema = Ema(network, 0.998)
    optimizer = MuonAdamW(network, lr=learning_rate, weight_decay=0.0)
    run = Run(
        directory=directory,
        budget=budget,
        learning_rate=learning_rate,
        decay=0.5,
        on_record=on_record,
    )
    begun = False
    for step in run.steps({"network": network, "ema": ema}, optimizer):
        if not begun:  # a resumed run draws new pictures, not the first ones again
            generator.manual_seed(seed + 1 + step)
            begun = True
        index = torch.randint(len(cache.scenes), (batch,), generator=generator)
        real, mask = cache.batch(index, device), cache.foreground(index, device)
        z = latents[index].float()
        z = (z + _NOISE * torch.randn(z.shape, generator=generator)).to(device)
        with torch.autocast(device, torch.bfloat16):
            fake = network(z)
        loss = drawing_loss(fake.float(), real, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.update(network)
        if step % 100 == 0:
            quality = psnr(fake.detach().clamp(-1, 1), real, span=2.0).mean().item()
            run.record(loss=loss.item(), psnr=quality, rate=run.rate())
    averaged = ema.module
    if not isinstance(averaged, _Decoder):
        raise TypeError("the average is of another network.")
    vae.post_quant_conv.load_state_dict(averaged.post_quant_conv.state_dict())
    vae.decoder.load_state_dict(averaged.decoder.state_dict())
    return vae.eval()


def drawing_loss(fake: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """Weighted error of the pixels and of their differences.

    Args:
        fake, real: (n, 3, h, w) in [-1, 1].
        mask: (n, 1, h, w) foreground in [0, 1].

    Returns:
        () a mean over pixels of |e| + 4 e^2 + |dx e| + |dy e|, the animal's counting three times.
    """
    weight = animal_weight(mask)
    error = fake - real
    pixels = (weight * (error.abs() + 4 * error.square())).mean()
    across = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    return pixels + _SHARP * (across + down)
