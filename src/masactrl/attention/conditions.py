"""Images without a condition in a batch whose other images have one.

ControlNet and T2I-Adapter pipelines take one condition picture per prompt. When a pose is to guide
the targets only, the source must get none: not a black picture, which the network would read as a
condition too, but no residuals at all (the paper's code gives a real source zero adapter features).

The residuals are taken at the U-Net, where every network's are laid out like the batch, image by
image within each guidance branch, also with several images per prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from masactrl.attention.observing import installed
from masactrl.attention.support import denoiser_of
from masactrl.errors import RowsError, UnsupportedPipeline

__all__ = ["without_condition"]

_RESIDUALS = (
    "down_block_additional_residuals",  # ControlNet
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",  # T2I-Adapter
)


@contextmanager
def without_condition(
    pipeline: DiffusionPipeline, *, images: int, unconditioned: tuple[int, ...] = (0,)
) -> Iterator[None]:
    """Switch the ControlNet or T2I-Adapter off for some images inside the `with` block.

    `images` is the number of images of the run (prompts x images per prompt), `unconditioned` the
    numbers of those that get no condition. Their condition pictures are still needed to fill the
    batch; their content does not matter. Raises `UnsupportedPipeline` when the pipeline has
    neither network, `RowsError` when a number is out of range or does not fit the batch.

        with without_condition(pipeline, images=2), control.attach(pipeline, rows):
            pipeline(prompts, image=[any_picture, pose])
    """
    networks = [getattr(pipeline, name, None) for name in ("controlnet", "adapter")]
    if not any(isinstance(network, nn.Module) for network in networks):
        raise UnsupportedPipeline(
            f"{type(pipeline).__name__} has no ControlNet and no T2I-Adapter, so there is no "
            "condition to leave out. Use a ControlNet or adapter pipeline."
        )
    for image in unconditioned:
        if not 0 <= image < images:
            raise RowsError(
                f"Image {image} was to get no condition, but the run has images 0 to {images - 1}."
            )
    keep = tuple(0.0 if image in unconditioned else 1.0 for image in range(images))
    with installed([(denoiser_of(pipeline), _Residuals(keep))]):
        yield


class _Residuals(ModelHook):
    """Multiplies the rows of every residual that enters the U-Net by 1 or 0, image by image."""

    def __init__(self, keep: tuple[float, ...]) -> None:
        super().__init__()
        self._keep = keep

    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """The same inputs, the residuals of unconditioned images at zero."""
        return args, {k: self._kept(v) if k in _RESIDUALS else v for k, v in kwargs.items()}

    def _kept(self, value: object) -> object:
        if isinstance(value, Tensor):
            return value * self._rows(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._kept(entry) for entry in value)
        return value

    def _rows(self, residual: Tensor) -> Tensor:
        count = residual.shape[0]
        if count % len(self._keep):
            raise RowsError(
                f"The condition residuals have {count} rows, no multiple of the {len(self._keep)} "
                "images they were told of. Count prompts x num_images_per_prompt and give one "
                "condition picture per prompt."
            )
        keep = torch.tensor(self._keep, dtype=residual.dtype, device=residual.device)
        return keep.repeat(count // len(self._keep)).reshape(-1, *[1] * (residual.ndim - 1))
