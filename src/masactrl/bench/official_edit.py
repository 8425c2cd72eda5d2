"""A whole edit of a real picture as the paper's code computes it, to measure ourselves against.

Inversion with both guidance branches, then source and target denoised together in four rows, every
attention with an explicit softmax, every controlled layer computed twice (`Explicit`). Nothing of
the package's control, inversion or loop runs through here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.networks import find_layers
from masactrl.bench.explicit_attention import Explicit
from masactrl.models.denoiser import Denoiser

if TYPE_CHECKING:
    from masactrl.models.loading import Pipeline

__all__ = ["official_edit"]


@torch.no_grad()
def official_edit(
    pipeline: Pipeline,
    z_0: Tensor,
    prompt: str,
    *,
    steps: int,
    guidance: float,
    start_step: int,
    start_layer: int = 10,
) -> Tensor:
    """Return source and target (2, c, h, w), float32, of the latents (1, c, h, w) of a picture.

    Args:
        pipeline: Stable Diffusion with a DDIM scheduler; its attention processors are put back.
        z_0: scaled latents of the picture.
        prompt: of the target; the source's is empty.
        steps: N.
        guidance: scale, above 1; of the inversion, too.
        start_step: S.
        start_layer: L.
    """
    denoiser, unet = Denoiser(pipeline), pipeline.unet
    schedule = denoiser.schedule(steps)
    a = schedule.alpha_bar
    own: dict[str, Any] = dict(unet.attn_processors)
    text = denoiser.encode_text(["", prompt])
    null, both = text.hidden[[0, 0]], text.hidden[[0, 0, 0, 1]]

    def noise_in(z: Tensor, level: int, hidden: Tensor) -> Tensor:
        rows = torch.cat([z, z]).to(denoiser.device, denoiser.dtype)
        t = torch.tensor(schedule.timesteps[level], device=denoiser.device)
        out: Tensor = unet(rows, t, encoder_hidden_states=hidden).sample.float()
        u, c = out.chunk(2)
        guided: Tensor = u + guidance * (c - u)
        return guided

    def moved(z: Tensor, eps: Tensor, begin: float, end: float) -> Tensor:
        z_hat = (z - math.sqrt(1 - begin) * eps) / math.sqrt(begin)
        return math.sqrt(end) * z_hat + math.sqrt(1 - end) * eps

    try:
        unet.set_attn_processor({name: Explicit(edit=False) for name in own})
        z = z_0
        for level in reversed(range(steps)):
            z = moved(z, noise_in(z, level, null), a[level + 1], a[level])
        z = z.repeat(2, 1, 1, 1)
        for level in range(steps):
            if level == start_step:
                for layer in find_layers(unet)[start_layer:]:
                    layer.module.set_processor(Explicit(edit=True, twice=True))
            z = moved(z, noise_in(z, level, both), a[level], a[level + 1])
    finally:
        unet.set_attn_processor(own)
    return z
