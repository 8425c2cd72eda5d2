"""A model's settings before it is loaded, for plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masactrl.errors import ModelNotFound
from masactrl.models.locate import INDEX, locate
from masactrl.models.presets import Family, ModelPreset, default_preset, read_preset
from masactrl.pictures.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_SD_FACTOR = 8  # pixels a latent, of every Stable Diffusion


def preview(model: str | Path, *, allow_pickle: bool = False) -> ModelPreset | None:
    """Return the settings that the model brings; reads a few small files and no weights.

    None where only loading tells: a Hub id or a single file.

    Args:
        model: see `masactrl.models.load_pipeline`.
        allow_pickle: see there.

    Raises:
        ModelNotFound: there is no such model.
        ConfigError: a pickle that was not allowed, or a preset file that cannot be used.
    """
    place = locate(model, allow_pickle=allow_pickle)
    if place.kind != "folder":
        return None
    folder = Path(place.source)
    if found := read_preset(folder):
        return found[1]
    index, unet = (_json(folder / name) for name in (INDEX, "unet/config.json"))
    family: Family = "sdxl" if "XL" in str(index.get("_class_name")) else "sd"
    size = unet.get("sample_size")
    rows, columns = (size, size) if isinstance(size, int) else tuple(size or (64, 64))
    return default_preset(family, height=rows * _SD_FACTOR, width=columns * _SD_FACTOR)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{path} cannot be read: {error}.") from error
    return values if isinstance(values, dict) else {}
