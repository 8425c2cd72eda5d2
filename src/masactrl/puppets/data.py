"""Training pictures: rendered once into a memory-mapped cache, found again from the seed alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from masactrl.errors import ConfigError
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import Scene, sample_scenes

#: The held-out pictures of every measurement come from seeds at and above this one.
HELD_OUT_SEED = 1_000_000
_WRITE_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureCache:
    """Rendered pictures on disk.

    Attributes:
        images: (count, 3, size, size) uint8, memory mapped.
        masks: (count, size, size) uint8 foreground coverage, memory mapped.
        scenes: what each picture shows.
    """

    images: np.ndarray
    masks: np.ndarray
    scenes: tuple[Scene, ...]

    def batch(self, indices: Tensor) -> Tensor:
        """(n,) indices -> (n, 3, size, size) float in [-1, 1]."""
        picked = self.images[indices.numpy()]
        return torch.from_numpy(picked).float().div_(127.5).sub_(1)


def open_pictures(
    directory: Path,
    *,
    count: int,
    size: int,
    seed: int,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> PictureCache:
    """Open the cache, rendering what is missing (also after an interruption).

    Args:
        directory: made if absent.
        count, size, seed: number of pictures, side in pixels, seed of the scenes (below
            `HELD_OUT_SEED` for training).
        on_progress: called with (done, count).

    Raises:
        ConfigError: the directory holds another set of pictures.
    """
    directory.mkdir(parents=True, exist_ok=True)
    note = directory / "pictures.json"
    want = {"count": count, "size": size, "seed": seed, "world": 1}
    have = json.loads(note.read_text()) if note.exists() else {**want, "done": 0}
    if {k: have[k] for k in want} != want:
        raise ConfigError(
            f"{directory} holds pictures for {have}, not for {want}; choose another directory."
        )
    scenes = sample_scenes(count, seed=seed)
    fresh = not (directory / "images.u8").exists()
    mode: Literal["w+", "r+"] = "w+" if fresh else "r+"
    images = np.memmap(
        directory / "images.u8", dtype=np.uint8, mode=mode, shape=(count, 3, size, size)
    )
    masks = np.memmap(directory / "masks.u8", dtype=np.uint8, mode=mode, shape=(count, size, size))
    done = 0 if fresh else int(have["done"])
    while done < count:
        end = min(done + _WRITE_AT_ONCE, count)
        made = render(scenes[done:end], size, device=device)
        images[done:end] = made.image.mul(255).round_().byte().cpu().numpy()
        masks[done:end] = made.mask[:, 0].mul(255).round_().byte().cpu().numpy()
        done = end
        note.write_text(json.dumps({**want, "done": done}))
        if on_progress is not None:
            on_progress(done, count)
    return PictureCache(images=images, masks=masks, scenes=scenes)
