"""What tests of PIE-Bench share: its data set in small, a processor, a perceptual distance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import tiny_models
import torch
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = [0, 512 * 512]
PART = [512 * 100 + 100, 50, 512 * 512 - 10, 400]  # the second run reaches beyond the end


class Processor:
    """CLIP's preprocessing in a few lines: 32 pixels, ids of the tiny tokenizer."""

    def __init__(self) -> None:
        self.words = tiny_models.tokenizer()

    def __call__(self, text: Any = None, images: Any = None, **_: Any) -> dict[str, Any]:
        if images is not None:
            batch = torch.stack([image.float() / 255 for image in images])
            return {"pixel_values": torch.nn.functional.interpolate(batch, (32, 32)) * 4 - 2}
        return dict(self.words(text, return_tensors="pt", padding=True))


def lpips(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A perceptual distance with random features."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 8, 8, generator=generator)
    a, b = (torch.nn.functional.conv2d(one, kernel, stride=8) for one in (x, y))
    return (a - b).square().mean()


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC)


def entry(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "image_path": f"5_pose/{number:012d}.jpg",
        "original_prompt": "a [cat] sitting",
        "editing_prompt": "a [dog] running",
        "editing_instruction": "",
        "editing_type_id": "5",
        "blended_word": "cat dog",
        "mask": PART,
        **changes,
    }


def write_data(tmp_path: Path) -> Path:
    """Three good rows (one with a whole-image mask) and one of every bad kind."""
    rows = {
        "000000000000": entry(0),
        "000000000001": entry(1, mask=WHOLE, editing_type_id="8"),
        "000000000002": entry(2, blended_word=""),
        "000000000003": entry(3, image_path="5_pose/none.jpg"),
        "000000000004": entry(0, mask=[1, 2, 3]),
        "000000000005": entry(0, mask=[512 * 512, 3]),
        "000000000006": entry(0, editing_prompt="[]"),
        "000000000007": entry(0, image_path="../../etc/passwd"),
        "000000000008": "no object",
        "000000000009": entry(0, editing_type_id=5),
        "000000000010": entry(10),
    }
    images = tmp_path / "data" / "annotation_images" / "5_pose"
    images.mkdir(parents=True)
    for number in range(3):
        picture(number).save(images / f"{number:012d}.jpg")
    (images / f"{10:012d}.jpg").write_bytes(b"no picture")
    (tmp_path / "data" / "mapping_file.json").write_text(json.dumps(rows))
    return tmp_path / "data"
