"""Which model a single file holds, by the names of its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from masactrl.errors import UnsupportedPipeline
from masactrl.models.locate import PICKLES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from masactrl.models.presets import Family

__all__ = ["family_of_file"]

_WHOLE = "model.diffusion_model."
_TEXT = ("text_encoders.", "conditioner.embedders.", "cond_stage_model.")


def family_of_file(path: str) -> tuple[Family, bool]:
    """Return the family of a file, and whether it holds a transformer without its text encoders.

    Raises:
        UnsupportedPipeline: it is neither a whole checkpoint nor a transformer that we know.
    """
    names = tuple(_names(path))
    bare = {name.removeprefix(_WHOLE) for name in names}
    alone = not any(name.startswith(_TEXT) for name in names)
    if _some(bare, "joint_blocks.") or {"context_embedder.weight", "pos_embed.proj.weight"} <= bare:
        return "sd3", alone
    if _some(bare, "double_blocks.") or _some(bare, "single_transformer_blocks."):
        return "flux", alone
    if not _some(names, _WHOLE):
        raise UnsupportedPipeline(
            f"{path} holds no whole Stable Diffusion checkpoint and no transformer of SD3 or FLUX "
            "(a LoRA, a VAE and a U-Net's file of a diffusers folder are none)."
        )
    return ("sdxl" if _some(names, "conditioner.embedders.1.") else "sd"), False


def _names(path: str) -> Iterable[str]:
    if Path(path).suffix.lower() in PICKLES:
        content = torch.load(path, map_location="meta", weights_only=True)
        return tuple(content.get("state_dict", content))
    with safe_open(path, framework="pt") as file:
        return tuple(file.keys())


def _some(names: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)
