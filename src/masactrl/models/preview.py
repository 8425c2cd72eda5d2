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

_FACTOR = 8  # pixels a latent, of every Stable Diffusion and FLUX


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
    name = str(_json(folder / INDEX).get("_class_name"))
    known: dict[str, Family] = {"StableDiffusion3Pipeline": "sd3", "FluxPipeline": "flux"}
    family = known.get(name, "sdxl" if "XL" in name else "sd")
    joint = family in ("sd3", "flux")
    network = _json(folder / ("transformer" if joint else "unet") / "config.json")
    size = network.get("sample_size") or (128 if joint else 64)
    rows, columns = (size, size) if isinstance(size, int) else tuple(size)
    layers = int(network.get("num_layers", 0)) + int(network.get("num_single_layers", 0))
    return default_preset(
        family,
        height=rows * _FACTOR,
        width=columns * _FACTOR,
        layers=layers if joint else None,
        distilled=family == "flux" and not network.get("guidance_embeds", False),
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{path} cannot be read: {error}.") from error
    return values if isinstance(values, dict) else {}
