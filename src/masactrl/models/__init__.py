"""Real networks: where they come from, on which device they run, and how they are best used."""

from masactrl.models.adapters import Lora
from masactrl.models.devices import choose_device, choose_dtype
from masactrl.models.loading import LoadedModel, load_pipeline
from masactrl.models.origin import Origin
from masactrl.models.presets import Family, ModelPreset, default_preset, read_preset, write_preset
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
    "read_preset",
    "write_preset",
]
