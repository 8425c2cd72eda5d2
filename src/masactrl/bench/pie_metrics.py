r"""PIE-Bench's figures as published, through torchmetrics and transformers.

    PSNR, MSE, SSIM   of x (1 - m) and y (1 - m), the whole frame, values in [0, 1]
    LPIPS             SqueezeNet, the same two frames in [-1, 1]
    CLIP              100 cos of picture and target prompt, ViT-L/14; "edited" of y m
    structure         || S(x) - S(y) ||^2 / n^2,  S_ij = cos(k_i, k_j)

    x, y   source and edited picture;   m  mask, 1 where the edit may act
    k_i    keys of the last of 12 layers of DINO ViT-B/8 at 224 pixels, all heads side by side

Quirks kept: blackened pixels count as perfectly preserved; where m is 1 everywhere the masked
figures are NaN and such rows are left out of means; the structure's pictures go into ImageNet's
normalisation as 0 to 255, not 0 to 1 (`structure_distance`; the corrected figure stands beside it
as `structure_distance_corrected`); SSIM leaves out the border in which its window meets the
padding, as torchmetrics did in 2023 and does no more. Resizing is bilinear without antialiasing, as
torchvision did it to tensors then.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from masactrl.errors import MasaCtrlError, MissingExtra, UnsupportedPipeline

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["METRICS", "ClipScore", "PieMetrics", "key_similarity", "load_pie_metrics"]

METRICS = (
    "structure_distance",
    "psnr_unedit_part",
    "lpips_unedit_part",
    "mse_unedit_part",
    "ssim_unedit_part",
    "clip_similarity_target_image",
    "clip_similarity_target_image_edit_part",
    "clip_similarity_source_image",
    "structure_distance_corrected",
)
"""All figures, under the names of the published evaluation."""

_CLIP = "openai/clip-vit-large-patch14"
_DINO = "facebook/dino-vitb8"
_DINO_SIDE = 224
_SSIM_BORDER = 5  # pixels that the Gaussian window of 11 reaches beyond the picture from
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PieMetrics:
    """The five measuring networks and functions.

    Args:
        clip: `clip(picture, text)` -> score; picture (3, h, w) uint8. A torchmetrics `CLIPScore`.
        lpips: `lpips(x, y)` -> distance; (1, 3, h, w) in [-1, 1].
        dino: a vision transformer of transformers (or one shaped like it).
        device: where pictures are put.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """

    def __init__(
        self,
        *,
        clip: Callable[[Tensor, str], Tensor],
        lpips: Callable[[Tensor, Tensor], Tensor],
        dino: nn.Module,
        device: str | torch.device = "cpu",
    ) -> None:
        try:
            from torchmetrics.functional.image import (
                peak_signal_noise_ratio,
                structural_similarity_index_measure,
            )
            from torchmetrics.functional.regression import mean_squared_error
        except ImportError as error:
            raise MissingExtra("the evaluation of PIE-Bench", "bench") from error
        self._clip, self._lpips, self._dino = clip, lpips, dino
        self._psnr, self._mse = peak_signal_noise_ratio, mean_squared_error
        self._ssim = structural_similarity_index_measure
        self._device = torch.device(device)

    @torch.no_grad()
    def measure(
        self,
        source: Image.Image,
        edited: Image.Image,
        mask: NDArray[np.uint8],
        *,
        source_prompt: str,
        target_prompt: str,
    ) -> Mapping[str, float]:
        """All of `METRICS` for two RGB pictures and the mask (h, w); NaN where there is none."""
        x, y = self._pixels(source), self._pixels(edited)  # 1 3 h w in 0..255
        m = torch.from_numpy(mask.astype(np.float32)).to(self._device)
        found = dict.fromkeys(METRICS, math.nan)
        found["structure_distance"] = self._structure(x, y)
        found["structure_distance_corrected"] = self._structure(x / 255, y / 255)
        if bool((m == 0).any()):
            kept_x, kept_y = x / 255 * (1 - m), y / 255 * (1 - m)
            found["psnr_unedit_part"] = float(self._psnr(kept_y, kept_x, data_range=1.0))
            found["lpips_unedit_part"] = float(self._lpips(kept_y * 2 - 1, kept_x * 2 - 1))
            mse = self._mse(kept_y[0].contiguous(), kept_x[0].contiguous())
            found["mse_unedit_part"] = float(mse)
            _, similar = self._ssim(kept_y, kept_x, data_range=1.0, return_full_image=True)
            inside = slice(_SSIM_BORDER, -_SSIM_BORDER)
            found["ssim_unedit_part"] = float(similar[..., inside, inside].mean())
        found["clip_similarity_source_image"] = self._similarity(x, source_prompt)
        found["clip_similarity_target_image"] = self._similarity(y, target_prompt)
        if bool((m == 1).any()):
            found["clip_similarity_target_image_edit_part"] = self._similarity(y * m, target_prompt)
        return found

    def _pixels(self, image: Image.Image) -> Tensor:
        values = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        return values.float()[None].to(self._device)

    def _similarity(self, picture: Tensor, text: str) -> float:
        return float(self._clip(picture[0].byte(), text))

    def _structure(self, x: Tensor, y: Tensor) -> float:
        return float(F.mse_loss(self._keys(y), self._keys(x)))

    def _keys(self, picture: Tensor) -> Tensor:
        sized = F.interpolate(
            picture, (_DINO_SIDE, _DINO_SIDE), mode="bilinear", align_corners=False
        )
        mean = torch.tensor(_MEAN, device=picture.device)[:, None, None]
        deviation = torch.tensor(_DEVIATION, device=picture.device)[:, None, None]
        return key_similarity(self._dino, (sized - mean) / deviation)


def key_similarity(dino: nn.Module, pictures: Tensor) -> Tensor:
    """S (1, tokens, tokens): cosines of the keys of the last layer for one normalised picture.

    Raises:
        UnsupportedPipeline: the network has no key projections.
    """
    names = ("k_proj", "attention.key")
    projections = [module for name, module in dino.named_modules() if name.endswith(names)]
    if not projections:
        raise UnsupportedPipeline(
            f"{type(dino).__name__} has no key projections; give a vision transformer of "
            "transformers such as ViTModel."
        )
    kept: list[Tensor] = []
    handle = projections[-1].register_forward_hook(lambda *call: kept.append(call[-1]))
    try:
        dino(pictures)
    finally:
        handle.remove()
    keys = kept[0]  # 1 tokens (heads x channels), the class token included
    norms = keys.norm(dim=2, keepdim=True)
    cosines: Tensor = keys @ keys.transpose(1, 2) / (norms @ norms.transpose(1, 2)).clamp(min=1e-8)
    return cosines


class _ClipForTorchmetrics(nn.Module):
    """CLIP of transformers 5 as torchmetrics 1.9 expects it: features as plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def get_image_features(self, *args: Any, **kwargs: Any) -> Tensor:
        return _tensor(self.model.get_image_features(*args, **kwargs))

    def get_text_features(self, *args: Any, **kwargs: Any) -> Tensor:
        return _tensor(self.model.get_text_features(*args, **kwargs))


def _tensor(features: Any) -> Tensor:
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return tensor


class ClipScore:
    """torchmetrics' `CLIPScore` around a CLIP model and its processor.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        try:
            from torchmetrics.multimodal.clip_score import CLIPScore
        except ImportError as error:
            raise MissingExtra("the evaluation of PIE-Bench", "bench") from error
        self._parts = model, processor
        self._score: Any = CLIPScore(lambda: (_ClipForTorchmetrics(model).eval(), processor))

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process by the parts: torchmetrics' object holds what cannot be copied."""
        return ClipScore, self._parts

    def __call__(self, picture: Tensor, text: str) -> Tensor:
        """The score of a picture (3, h, w) uint8 and a text."""
        self._score.reset()
        value: Tensor = self._score(picture, text)
        return value


def load_pie_metrics(device: str | torch.device = "cpu") -> PieMetrics:
    """The published networks: CLIP ViT-L/14, LPIPS SqueezeNet, DINO ViT-B/8; fetched on first use.

    Raises:
        MissingExtra: torchmetrics is not installed.
        MasaCtrlError: torchvision is not, or does not fit torch.
    """
    from transformers import CLIPModel, CLIPProcessor, ViTModel

    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise MissingExtra("the evaluation of PIE-Bench", "bench") from error
    _check_torchvision()
    lpips: Any = LearnedPerceptualImagePatchSimilarity(net_type="squeeze").to(device)
    clip = CLIPModel.from_pretrained(_CLIP).to(device).eval()
    dino = ViTModel.from_pretrained(_DINO, add_pooling_layer=False).to(device).eval()
    return PieMetrics(
        clip=ClipScore(clip, CLIPProcessor.from_pretrained(_CLIP)),
        lpips=lpips,
        dino=dino,
        device=device,
    )


def _check_torchvision() -> None:
    """Say how to get torchvision, which LPIPS needs.

    It is in no extra: its build has to be that of torch, and an installer left to itself may
    replace a CPU torch by one for CUDA.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        raise MasaCtrlError(
            f"LPIPS of PIE-Bench needs torchvision in the build of your torch {torch.__version__}, "
            f"and it cannot be imported ({error}). Install it from where that torch came from: "
            "pip install --no-deps torchvision, with the same --index-url."
        ) from error
