"""CLIP skip: the last layers of the text encoder left out, as many checkpoints were trained.

Web UIs count from 1: their "Clip skip: 2" leaves one layer out, which is 1 here. The final norm
stays. diffusers' own argument of this name fails with transformers 5.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["clip_skip"]


@contextmanager
def clip_skip(pipeline: Any, layers: int) -> Iterator[None]:
    """Leave the text encoder's last layers out inside the `with` block; 0 touches nothing.

    Args:
        pipeline: Stable Diffusion 1.x or 2.x.
        layers: how many are left out, less than the encoder has.

    Raises:
        ConfigError: it has two text encoders (SDXL), or not so many layers.
    """
    if not layers:
        yield
        return
    if getattr(pipeline, "text_encoder_2", None) is not None:
        raise ConfigError(
            f"clip_skip={layers} was given, and {type(pipeline).__name__} has several text "
            "encoders, which were trained without; leave it out."
        )
    model = pipeline.text_encoder
    encoder = getattr(model, "text_model", model).encoder
    own = encoder.layers
    if layers >= len(own):
        raise ConfigError(
            f"clip_skip={layers} was given, and the text encoder has {len(own)} layers; accepted "
            f"is 0 to {len(own) - 1}."
        )
    encoder.layers = nn.ModuleList(own[: len(own) - layers])
    try:
        yield
    finally:
        encoder.layers = own
