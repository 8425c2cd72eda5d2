"""Training pictures: rendered once into a memory-mapped cache, found again from the seed alone."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from masactrl.errors import ConfigError
from masactrl.puppets.posed import sample_posed_scenes
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

    def batch(self, indices: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """(n,) indices -> (n, 3, size, size) float in [-1, 1]."""
        picked = torch.from_numpy(self.images[indices.numpy()]).to(device)  # as bytes: a quarter
        return picked.float().div_(127.5).sub_(1)

    def foreground(self, indices: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """(n,) indices -> (n, 1, size, size) float coverage in [0, 1]."""
        picked = torch.from_numpy(self.masks[indices.numpy()][:, None]).to(device)
        return picked.float().div_(255)


def open_pictures(
    directory: Path,
    *,
    count: int,
    size: int,
    seed: int,
    device: str = "cpu",
    workers: int = 1,
    posed: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> PictureCache:
    """Open the cache, rendering what is missing (also after an interruption).

    Args:
        directory: made if absent.
        count, size, seed: number of pictures, side in pixels, seed of the scenes (below
            `HELD_OUT_SEED` for training).
        device: where to render.
        workers: processes that render; the pictures are the same. Also on a GPU several are
            quicker than one, since a single process is busy launching kernels.
        posed: scenes in poses that words cannot say, see `masactrl.puppets.posed`.
        on_progress: called with (done, count).

    Raises:
        ConfigError: the directory holds another set of pictures.
    """
    directory.mkdir(parents=True, exist_ok=True)
    note = directory / "pictures.json"
    want = {"count": count, "size": size, "seed": seed, "world": 1, "posed": posed}
    have = {**want, "done": 0}
    if note.exists():
        have = {"posed": False, **json.loads(note.read_text())}
    if {k: have[k] for k in want} != want:
        raise ConfigError(
            f"{directory} holds pictures for {have}, not for {want}; choose another directory."
        )
    scenes = (sample_posed_scenes if posed else sample_scenes)(count, seed=seed)
    fresh = not (directory / "images.u8").exists()
    done = 0 if fresh else int(have["done"])
    images, masks = _arrays(directory, count, size, new=fresh)
    jobs = [
        _Job(directory, scenes[at : at + _WRITE_AT_ONCE], at, count, size, device)
        for at in range(done, count, _WRITE_AT_ONCE)
    ]
    for end in _each(jobs, workers):
        note.write_text(json.dumps({**want, "done": end}))
        if on_progress is not None:
            on_progress(end, count)
    return PictureCache(images=images, masks=masks, scenes=scenes)


@dataclass(frozen=True, slots=True)
class _Job:
    """Scenes to render and their place in the cache."""

    directory: Path
    scenes: tuple[Scene, ...]
    at: int
    count: int
    size: int
    device: str

    def run(self) -> int:
        """Render, write, and return the index behind the last picture."""
        end = self.at + len(self.scenes)
        images, masks = _arrays(self.directory, self.count, self.size)
        made = render(self.scenes, self.size, device=self.device)
        images[self.at : end] = made.image.mul(255).round_().byte().cpu().numpy()
        masks[self.at : end] = made.mask[:, 0].mul(255).round_().byte().cpu().numpy()
        images.flush()
        masks.flush()
        return end


def _each(jobs: Sequence[_Job], workers: int) -> Iterator[int]:
    """Run the jobs, yielding in their order, so that what is noted as done has no holes."""
    if workers == 1 or len(jobs) < 2:
        yield from map(_Job.run, jobs)
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        yield from pool.map(_Job.run, jobs)


def _arrays(
    directory: Path, count: int, size: int, *, new: bool = False
) -> tuple[np.memmap, np.memmap]:
    """Pictures (count, 3, size, size) and masks (count, size, size), bytes on disk."""
    mode: Literal["w+", "r+"] = "w+" if new else "r+"
    shape = (count, 3, size, size)
    return (
        np.memmap(directory / "images.u8", dtype=np.uint8, mode=mode, shape=shape),
        np.memmap(directory / "masks.u8", dtype=np.uint8, mode=mode, shape=(count, size, size)),
    )
