"""Is this the model that a file was made with? A few weights of every kind tell.

Whole checkpoints take seconds to hash and hash differently in every precision. A fingerprint holds
one number of each of some hundred weights: equal to the bit in the same precision, equal up to
rounding in another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from masactrl.models.loading import Pipeline

__all__ = ["fingerprint", "same_model"]

_PART = 64  # numbers of each network


def fingerprint(pipeline: Pipeline) -> Tensor:
    """Return (numbers,) float32 from denoiser, VAE and text encoders."""
    names = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    networks = [getattr(pipeline, name, None) for name in names]
    return torch.cat([_sample(one) for one in networks if isinstance(one, nn.Module)])


def same_model(one: Tensor, other: Tensor, *, same_dtype: bool) -> bool:
    """Say whether two fingerprints are of the same weights.

    Args:
        one: a fingerprint.
        other: a fingerprint.
        same_dtype: whether both models were loaded in the same precision.
    """
    if one.shape != other.shape:
        return False
    if same_dtype:
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=2**-6, atol=1e-6)  # bfloat16 keeps 8 bits


def _sample(network: nn.Module) -> Tensor:
    parameters = list(network.parameters())
    chosen = [parameters[i * len(parameters) // _PART] for i in range(_PART)]
    # From the middle: the first numbers of a tensor are its least telling (biases, padding).
    numbers = [one.detach().flatten()[one.numel() // 2] for one in chosen]
    total = float(sum(one.numel() for one in parameters))
    count = torch.tensor([total], dtype=torch.float32, device="cpu")
    return torch.cat([count, torch.stack([n.float().cpu() for n in numbers])])
