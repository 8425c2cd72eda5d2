"""PIE-Bench's data: `mapping_file.json`, its pictures and its masks, quirks to the letter.

    <folder>/mapping_file.json          {"000000000000": {"image_path": ..., "mask": [...]}, ...}
    <folder>/annotation_images/...      512 x 512 pictures

Whoever has the data brings the folder (Ju et al., "Direct Inversion", ICLR 2024, asks by a form).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masactrl.errors import ConfigError
from masactrl.pictures.files import read_text
from masactrl.pictures.images import DAMAGED

__all__ = ["IMAGES", "SIDE", "TYPES", "PieData", "PieItem", "PieProblem", "decode_mask", "read_pie"]

SIDE = 512
IMAGES = "annotation_images"
TYPES = MappingProxyType(
    {
        "0": "random",
        "1": "change object",
        "2": "add object",
        "3": "delete object",
        "4": "change content",
        "5": "change pose",
        "6": "change colour",
        "7": "change material",
        "8": "change background",
        "9": "change style",
    }
)
"""Editing types by their number; 4 and 5 are the non-rigid ones."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PieItem:
    """One edit of the benchmark.

    Attributes:
        key: its number, twelve digits.
        image_path: of the source, relative to `annotation_images`.
        source_prompt, target_prompt: without the brackets that mark the changed words.
        type_id: one of `TYPES`.
        blended_word: words of the local blend, (source, target), or empty.
        mask: (512, 512) 1 where the picture is to be edited, 0 elsewhere.
    """

    key: str
    image_path: str
    source_prompt: str
    target_prompt: str
    type_id: str
    blended_word: tuple[str, ...]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class PieProblem:
    """A row that cannot be used, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PieData:
    """The usable rows and the others."""

    folder: Path
    items: tuple[PieItem, ...]
    problems: tuple[PieProblem, ...]

    def picture(self, item: PieItem) -> Image.Image:
        """The source, RGB, squashed to 512 x 512 as the published run does."""
        with Image.open(self.folder / IMAGES / item.image_path) as image:
            return squashed(image)


def squashed(image: Image.Image) -> Image.Image:
    """RGB of 512 x 512, by nearest neighbour where the size is another."""
    rgb = image.convert("RGB")
    return rgb if rgb.size == (SIDE, SIDE) else rgb.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def decode_mask(runs: Sequence[int]) -> NDArray[np.uint8]:
    """The mask (512, 512) of a flat list start, length, start, length ...

    Runs go over the picture row by row. A run that reaches beyond the end is cut there, and the
    outermost frame of one pixel is always 1, "to avoid annotation errors in boundary".

    Raises:
        ConfigError: an odd number of entries, or one that is no place in the picture.
    """
    if len(runs) % 2:
        raise ConfigError(f"the mask has {len(runs)} entries, and they come in pairs")
    flat = np.zeros(SIDE * SIDE, dtype=np.uint8)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (start, length))
        if not whole or not 0 <= start < flat.size or length < 0:
            raise ConfigError(f"the mask has the run {start}, {length}, which is none")
        flat[start : min(start + length, flat.size)] = 1
    mask = flat.reshape(SIDE, SIDE)
    mask[[0, -1], :] = 1
    mask[:, [0, -1]] = 1
    return mask


def read_pie(folder: Path, *, types: Sequence[str] | None = None) -> PieData:
    """Read the mapping; rows that cannot be used are named, the others are kept.

    Args:
        folder: with `mapping_file.json` and `annotation_images`.
        types: only these editing types; None is all.

    Raises:
        ConfigError: the mapping is missing or no JSON object, or a type is unknown.
    """
    for one in types or ():
        if one not in TYPES:
            raise ConfigError(f"The editing type {one!r} is not known; accepted are 0 to 9.")
    path = folder / "mapping_file.json"
    try:
        mapping = json.loads(read_text(path))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}. Give the benchmark's folder."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}.") from error
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} holds no JSON object.")
    items: list[PieItem] = []
    problems: list[PieProblem] = []
    for key, entry in mapping.items():
        chosen = isinstance(entry, dict) and (not types or entry.get("editing_type_id") in types)
        if isinstance(entry, dict) and "editing_type_id" in entry and not chosen:
            continue
        try:
            items.append(_item(str(key), entry, folder))
        except ConfigError as error:
            problems.append(PieProblem(key=str(key), reason=str(error)))
    return PieData(folder=folder, items=tuple(items), problems=tuple(problems))


def _item(key: str, entry: Any, folder: Path) -> PieItem:
    """One row; `ConfigError` with the reason when it cannot be used."""
    if not isinstance(entry, dict):
        raise ConfigError("the row is no JSON object")
    words = {}
    for name in ("image_path", "original_prompt", "editing_prompt", "editing_type_id"):
        if not isinstance(entry.get(name), str):
            raise ConfigError(f"{name} is missing or no text")
        words[name] = entry[name]
    if words["editing_type_id"] not in TYPES:
        raise ConfigError(f"the editing type {words['editing_type_id']!r} is none of 0 to 9")
    target = _stripped(words["editing_prompt"])
    if not target.strip():
        raise ConfigError("the editing prompt is empty")
    if not isinstance(entry.get("mask"), list):
        raise ConfigError("the mask is missing or no list")
    mask = decode_mask(entry["mask"])
    _check_picture(folder, words["image_path"])
    return PieItem(
        key=key,
        image_path=words["image_path"],
        source_prompt=_stripped(words["original_prompt"]),
        target_prompt=target,
        type_id=words["editing_type_id"],
        blended_word=tuple(str(entry.get("blended_word") or "").split()),
        mask=mask,
    )


def _check_picture(folder: Path, relative: str) -> None:
    inside = (folder / IMAGES).resolve()
    path = (inside / relative).resolve()
    if not path.is_relative_to(inside):
        raise ConfigError(f"the picture {relative} lies outside of {IMAGES}")
    try:
        with Image.open(path) as image:
            image.verify()
    except FileNotFoundError as error:
        raise ConfigError(f"the picture {relative} is missing") from error
    except DAMAGED as error:
        raise ConfigError(f"the picture {relative} cannot be read: {error}") from error


def _stripped(prompt: str) -> str:
    return prompt.replace("[", "").replace("]", "")
