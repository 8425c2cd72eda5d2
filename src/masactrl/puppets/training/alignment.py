"""Representation alignment: a denoiser learns early what a picture shows, not only how it looks.

REPA (Yu et al., ICLR 2025): features h of a middle layer of the denoiser, read from the noisy
latent, are drawn to features y of the clean picture by a network that knows what it sees,

    L = L_diffusion - lambda * mean over cells of cos(project(h), y)

Here y comes from the inspector. The projection is thrown away after training. The layer of a U-Net
is the first decoder layer at an eighth of the picture's cells, SD 1.x's layer 10: there the queries
of mutual self-attention begin to look for the part of the source that they belong to. Of SD3 it is
the block before the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from masactrl.puppets.inspector import Inspector, resized
from masactrl.puppets.training.data import PictureCache

_AT_ONCE = 128  # pictures
_HIDDEN = 256  # channels of the projection


@torch.no_grad()
def encode_features(
    inspector: Inspector,
    cache: PictureCache,
    path: Path,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What the inspector sees in all pictures, (count, features, h, w) float16; kept at ``path``.

    Args:
        inspector: trained.
        cache: the training pictures.
        path: where they are kept; found again if of the right number.
        device: where to compute.
        on_progress: called with (done, count).
    """
    if path.exists():
        known: Tensor = torch.load(path, weights_only=True)
        if len(known) == len(cache.scenes):
            return known
    inspector = inspector.to(device).eval()
    parts = []
    for index in torch.arange(len(cache.scenes)).split(_AT_ONCE):
        pictures = resized((cache.batch(index, device) + 1) / 2)
        with torch.autocast(device, torch.bfloat16):
            parts.append(inspector.features(pictures).half().cpu())
        if on_progress is not None:
            on_progress(int(index[-1]) + 1, len(cache.scenes))
    features = torch.cat(parts)
    torch.save(features, path)
    return features


class Alignment(nn.Module, AbstractContextManager["Alignment"]):
    """Watches one layer of a denoiser while entered, and says how far it is from given features.

    Args:
        denoiser: a U-Net of SD 1.x's layout, or SD3's transformer.
        channels: of the features.
    """

    def __init__(
        self, denoiser: UNet2DConditionModel | SD3Transformer2DModel, channels: int
    ) -> None:
        super().__init__()
        self._seen: Tensor | None = None
        self._grid: tuple[int, int] | None = None  # of patches, where the layer knows tokens only
        layer: Any
        watched: list[tuple[Any, Callable[..., None]]]
        if isinstance(denoiser, SD3Transformer2DModel):
            layer = denoiser.transformer_blocks[len(denoiser.transformer_blocks) // 2 - 1]
            width = denoiser.inner_dim
            watched = [(denoiser.pos_embed.proj, self._keep_grid), (layer, self._keep)]
        else:
            layer = denoiser.up_blocks[-2].attentions[0]
            width = layer.norm.num_channels
            watched = [(layer, self._keep)]
        # Kept in a function, so that the denoiser is no part of this module.
        self._watch: Callable[[], list[Any]] = lambda: [
            one.register_forward_hook(keep) for one, keep in watched
        ]
        self._handles: list[Any] = []
        self.project = nn.Sequential(
            nn.Conv2d(width, _HIDDEN, 1),
            nn.SiLU(),
            nn.Conv2d(_HIDDEN, _HIDDEN, 1),
            nn.SiLU(),
            nn.Conv2d(_HIDDEN, channels, 1),
        )

    def __enter__(self) -> Alignment:
        self._handles = self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._seen = None

    def _keep_grid(self, _module: nn.Module, _given: object, output: Tensor) -> None:
        self._grid = (int(output.shape[-2]), int(output.shape[-1]))

    def _keep(self, _module: nn.Module, _given: object, output: Any) -> None:
        if self._grid is not None:  # (text, picture) of a joint block
            self._seen = output[1].mT.unflatten(-1, self._grid)
        else:
            self._seen = output[0] if isinstance(output, tuple) else output.sample

    def distance(self, features: Tensor) -> Tensor:
        """One minus the mean cosine between the latest call's projection and ``features``.

        Args:
            features: (n, features, h, w) of the clean pictures, any float type.

        Returns:
            () float32 in [0, 2].

        Raises:
            RuntimeError: the watched layer was not called since entering.
        """
        if self._seen is None:
            raise RuntimeError("the denoiser was not called between entering and asking.")
        told = self.project(self._seen.float())
        if told.shape[-2:] != features.shape[-2:]:
            told = F.interpolate(told.float(), features.shape[-2:], mode="bilinear")
        return 1 - F.cosine_similarity(told.float(), features.float(), dim=1).mean()
