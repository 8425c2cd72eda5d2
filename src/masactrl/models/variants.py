"""Which files of weights a folder in diffusers format has: plain ones, or a variant such as fp16.

    unet/diffusion_pytorch_model.safetensors                          plain
    unet/diffusion_pytorch_model.fp16.safetensors                     variant "fp16"
    unet/diffusion_pytorch_model-00001-of-00002.safetensors           plain, in parts
    unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors      variant "fp16", in parts

People who save disk space keep the half-precision files alone; diffusers then says that a file is
missing unless the variant is named.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["files_in", "variant_of", "weights_there"]

_WEIGHTS = re.compile(
    r"(?:model|pytorch_model|diffusion_pytorch_model)"
    r"(?:\.(?P<before>(?!safetensors|bin)[\w-]+?))?(?:-\d{5}-of-\d{5})?"
    r"(?:\.(?P<after>(?!safetensors|bin)[\w-]+))?\.(?P<kind>safetensors|bin)"
)
_USUAL = "fp16"


def variant_of(files: Iterable[str], *, pickles: bool = False) -> str | None:
    """Return the variant that has to be named to load a model; None where there are plain files.

    Where several variants would do, fp16 is taken, else the first by name. Parts of a pipeline that
    have plain files, too, do not count: diffusers takes those where a variant is missing.

    Args:
        files: of a folder or repository in diffusers format, relative to it, such as
            unet/diffusion_pytorch_model.fp16.safetensors; parts are its subfolders.
        pickles: whether .bin files count where a part has no others.
    """
    parts: dict[str, list[str]] = {}
    for file in files:
        part, slash, name = file.partition("/")
        if slash and "/" not in name:
            parts.setdefault(part, []).append(name)
    lacking: list[set[str]] = []
    for names in parts.values():
        found = [_WEIGHTS.fullmatch(name) for name in names]
        of_kind = {
            kind: {one["before"] or one["after"] for one in found if one and one["kind"] == kind}
            for kind in ("safetensors", "bin")
        }
        variants = of_kind["safetensors"] or (of_kind["bin"] if pickles else set())
        if variants and None not in variants:
            lacking.append({str(one) for one in variants})
    common = set.intersection(*lacking) if lacking else set()
    if not common:
        return None
    return _USUAL if _USUAL in common else min(common)


def files_in(folder: Path) -> list[str]:
    """Return the files of a folder's parts as `variant_of` takes them."""
    return sorted(f"{one.parent.name}/{one.name}" for one in folder.glob("*/*"))


def weights_there(folder: Path) -> str:
    """Return the files of weights in a folder and its parts as words, at most ten of them."""
    endings = {".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".msgpack", ".gguf", ".h5"}
    files = sorted(
        str(file.relative_to(folder))
        for file in (*folder.glob("*"), *folder.glob("*/*"))
        if file.is_file() and file.suffix.lower() in endings
    )
    if not files:
        return "no file of weights"
    more = f" and {len(files) - 10} more" if len(files) > 10 else ""
    return ", ".join(files[:10]) + more
