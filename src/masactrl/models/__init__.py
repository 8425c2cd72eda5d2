"""Real networks: where they come from, on which device they run, and how they are best used.

Names are fetched on first use: `single_file` needs no diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masactrl.settings.on_demand import on_demand

if TYPE_CHECKING:
    from masactrl.models.adapters import Lora
    from masactrl.models.devices import choose_device, choose_dtype
    from masactrl.models.loading import LoadedModel, load_pipeline
    from masactrl.models.origin import Origin
    from masactrl.models.own import model_of
    from masactrl.models.presets import (
        Family,
        ModelPreset,
        default_preset,
        read_preset,
        write_preset,
    )
    from masactrl.models.single_file import export_single_file

__all__ = [
    "Family",
    "LoadedModel",
    "Lora",
    "ModelPreset",
    "Origin",
    "choose_device",
    "choose_dtype",
    "default_preset",
    "export_single_file",
    "load_pipeline",
    "model_of",
    "read_preset",
    "write_preset",
]

_HOMES = {
    "Family": "masactrl.models.presets",
    "LoadedModel": "masactrl.models.loading",
    "Lora": "masactrl.models.adapters",
    "ModelPreset": "masactrl.models.presets",
    "Origin": "masactrl.models.origin",
    "choose_device": "masactrl.models.devices",
    "choose_dtype": "masactrl.models.devices",
    "default_preset": "masactrl.models.presets",
    "export_single_file": "masactrl.models.single_file",
    "load_pipeline": "masactrl.models.loading",
    "model_of": "masactrl.models.own",
    "read_preset": "masactrl.models.presets",
    "write_preset": "masactrl.models.presets",
}

__getattr__ = on_demand(__name__, _HOMES)
