"""PIE-Bench's figures against the published evaluation, with tiny random networks."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pie_parts import PART, WHOLE, Processor, lpips, picture

pytest.importorskip("torchmetrics")

from masactrl.batch.pie_data import decode_mask
from masactrl.bench.pie_metrics import METRICS, PieMetrics, key_similarity, load_pie_metrics
from masactrl.errors import MasaCtrlError

if TYPE_CHECKING:
    from transformers import CLIPModel, ViTModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def inner_ssim(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """SSIM of Wang et al. (2004), Gaussian window of 11, where it has all its pixels."""
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2)[None, None]

    def mean(z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(z, window)

    p, q = (torch.from_numpy(z).double().permute(2, 0, 1)[:, None] for z in (x, y))
    of_p, of_q = mean(p * p) - mean(p) ** 2, mean(q * q) - mean(q) ** 2
    both = mean(p * q) - mean(p) * mean(q)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean(p) * mean(q) + c1) * (2 * both + c2)
    return float((top / ((mean(p) ** 2 + mean(q) ** 2 + c1) * (of_p + of_q + c2))).mean())


def test_figures_are_those_of_the_published_evaluation(
    metrics: PieMetrics, clip: CLIPModel, dino: ViTModel
) -> None:
    """Written out with numpy: the same arrays, masks multiplied in, nothing divided by areas."""
    source, edited, mask = picture(1), picture(2), decode_mask(PART)
    found = metrics.measure(
        source, edited, mask, source_prompt="a cat", target_prompt="a dog running"
    )
    x, y = (np.array(one).astype(np.float32) for one in (source, edited))
    keep = (1 - mask)[:, :, None]
    a, b = x / 255 * keep, y / 255 * keep
    mse = float(((a - b) ** 2).mean())
    assert found["mse_unedit_part"] == pytest.approx(mse, rel=1e-4)
    assert found["psnr_unedit_part"] == pytest.approx(10 * math.log10(1 / mse), rel=1e-4)
    tensors = [torch.from_numpy(one).permute(2, 0, 1)[None] * 2 - 1 for one in (b, a)]
    assert found["lpips_unedit_part"] == pytest.approx(float(lpips(*tensors)), rel=1e-4)

    assert found["ssim_unedit_part"] == pytest.approx(inner_ssim(b, a), abs=1e-4)

    def similarity(pixels: np.ndarray[Any, Any], text: str) -> float:
        processor = Processor()
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        with torch.no_grad():
            out = clip(
                **processor(text=[text]), pixel_values=processor(images=[image])["pixel_values"]
            )
        return max(0.0, 100 * float((out.image_embeds * out.text_embeds).sum()))

    whole, part = np.uint8(y), np.uint8(y * mask[:, :, None])
    names = ("clip_similarity_target_image", "clip_similarity_target_image_edit_part")
    for name, pixels in zip(names, (whole, part), strict=True):
        assert found[name] == pytest.approx(similarity(pixels, "a dog running"), abs=1e-3)

    def self_similarity(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear")
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        h = dino.embeddings((image - mean) / std)
        for layer in dino.layers[:-1]:
            h = layer(h)
        last = dino.layers[-1]
        keys = last.attention.k_proj(last.layernorm_before(h))[0]
        unit = keys / keys.norm(dim=1, keepdim=True)
        return unit @ unit.T

    with torch.no_grad():
        quirk = float((self_similarity(x) - self_similarity(y)).square().mean())
        right = float((self_similarity(x / 255) - self_similarity(y / 255)).square().mean())
    assert found["structure_distance"] == pytest.approx(quirk, rel=1e-3)
    assert found["structure_distance_corrected"] == pytest.approx(right, rel=1e-3)
    assert set(found) == set(METRICS)


def test_a_mask_over_everything_has_no_unedited_part(metrics: PieMetrics) -> None:
    found = metrics.measure(
        picture(1), picture(2), decode_mask(WHOLE), source_prompt="a", target_prompt="a"
    )
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {name for name in METRICS if name.endswith("_unedit_part")}


def test_a_network_without_keys_is_refused() -> None:
    with pytest.raises(MasaCtrlError, match="no key projections"):
        key_similarity(torch.nn.Linear(3, 3), torch.zeros(1, 3))


def test_a_missing_torchvision_is_said_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # cannot be imported
    with pytest.raises(MasaCtrlError, match="pip install --no-deps torchvision"):
        load_pie_metrics()
