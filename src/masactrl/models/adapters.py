"""LoRA files, and parts of a model that wait in the host's memory: what is done after loading."""

from __future__ import annotations

import importlib.util
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from safetensors import SafetensorError

from masactrl.attention.networks import network_of
from masactrl.errors import ConfigError, MasaCtrlError, MissingExtra, ModelNotFound
from masactrl.models.origin import LoraOrigin, file_hash
from masactrl.pictures.files import at_home
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from masactrl.models.loading import LoadedModel, Pipeline

_DOWN = re.compile(r"^(unet|transformer)\..*(lora_A|lora[._]down)\.weight$")
"""The first of a LoRA's two matrices, of a layer of the denoiser."""

_OTHER_KIND = {
    "size mismatch": "its layers have other sizes",
    "not found in the base model": "it reaches no layer",
}
"""What torch and peft say of a LoRA that does not fit, and we."""

Offload = Literal["none", "model", "sequential"]
"""Keep all parts on the GPU, one part at a time, or one layer at a time (slow, least memory)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One LoRA file and the weight it is added with.

    Attributes:
        path: a `.safetensors` file.
        scale: any finite number; 0 is without, 1 as it was trained, negative is the opposite.

    Raises:
        ConfigError: the file is no .safetensors file, or the scale no number.
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "path", at_home(self.path))
        if self.path.suffix.lower() != ".safetensors":
            raise ConfigError(
                f"{self.path} was given as a LoRA; accepted are .safetensors files, because other "
                "formats can run code when loaded."
            )

    @classmethod
    def parse(cls, text: str) -> Lora:
        """Return the LoRA written as PATH or PATH:SCALE.

        Raises:
            ConfigError: see the class.
        """
        path, colon, scale = text.rpartition(":")
        try:
            return cls(path=Path(path), scale=float(scale)) if colon else cls(path=Path(text))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            return cls(path=Path(text))  # the colon belongs to the path


def with_loras(model: LoadedModel, loras: Sequence[Lora]) -> LoadedModel:
    """Add LoRAs to the model's pipeline and return the model that knows of them.

    Raises:
        MissingExtra: peft is not installed.
        ModelNotFound: a file is missing, cannot be read, or fits another kind of model.
    """
    if not loras:
        return model
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra("a LoRA", "lora")
    names = [f"lora{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        _load(model.pipeline, name, lora)
    model.pipeline.set_adapters(names, adapter_weights=[lora.scale for lora in loras])
    told = tuple(
        LoraOrigin(name=one.path.name, scale=one.scale, hash=file_hash(one.path)) for one in loras
    )
    return replace(model, origin=replace(model.origin, loras=(*model.origin.loras, *told)))


def _load(pipeline: Pipeline, name: str, lora: Lora) -> None:
    if not lora.path.is_file():
        raise ModelNotFound(f"There is no LoRA file {lora.path}.")
    path = str(lora.path.resolve())
    try:
        with _unsaid("diffusers.loaders.peft", "diffusers.utils.peft_utils"):
            pipeline.load_lora_weights(path, adapter_name=name)
            wanted = _layers_in(pipeline, path)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        for said, why in _OTHER_KIND.items():
            if said in str(error):
                raise _foreign(lora, pipeline, why) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise ModelNotFound(f"The LoRA {lora.path} could not be added: {reason}.") from error
    reached = {one for adapters in pipeline.get_list_adapters().values() for one in adapters}
    if name not in reached:
        raise _foreign(lora, pipeline, "it reaches no layer")
    network = network_of(pipeline)[1]
    found = sum(name in getattr(one, "lora_A", ()) for one in network.modules())
    if found < wanted:
        raise _foreign(lora, pipeline, f"of its {wanted} layers it reaches {found}")


def _foreign(lora: Lora, pipeline: Pipeline, why: str) -> ModelNotFound:
    """What is said of a LoRA of another kind of model."""
    return ModelNotFound(
        f"The LoRA {lora.path} was made for another kind of model: in this "
        f"{type(pipeline).__name__} {why}. Take the LoRA that was made for it, or --model of the "
        "LoRA's own kind."
    )


def _layers_in(pipeline: Any, path: str) -> int:
    """How many layers of the denoiser a LoRA's file is for, as diffusers reads it."""
    options = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    found = pipeline.lora_state_dict(path, **options)
    names = found[0] if isinstance(found, tuple) else found
    return sum(bool(_DOWN.search(one)) for one in names)


@contextmanager
def _unsaid(*names: str) -> Iterator[None]:
    """Keep what libraries log of a file that does not fit, pages of it, from the terminal."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def with_offload(model: LoadedModel, offload: str, device: str) -> LoadedModel:
    """Let parts of the model wait in the host's memory, and return the model.

    Args:
        model: loaded on the CPU.
        offload: see `Offload`; "none" changes nothing.
        device: the device that computes, as torch writes it.

    Raises:
        ConfigError: no such way, or the device is the CPU, from which there is nothing to offload.
    """
    if offload not in get_args(Offload):
        raise ConfigError(
            f"offload={offload!r} was given; accepted are {', '.join(get_args(Offload))}."
        )
    if offload == "none":
        return model
    if device.startswith("cpu"):
        raise ConfigError(
            f"offload={offload} moves parts of the model between a GPU and the host's memory, and "
            "the device is the CPU; leave it out, or choose another device."
        )
    start = {
        "model": model.pipeline.enable_model_cpu_offload,
        "sequential": model.pipeline.enable_sequential_cpu_offload,
    }[offload]
    try:
        start(device=device)
    except (ImportError, RuntimeError) as error:
        raise MasaCtrlError(f"The model cannot be offloaded from {device}: {error}") from error
    return model
