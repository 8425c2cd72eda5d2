"""ControlNets and T2I-Adapters: the embedded model's own, folders, single files, Hub ids."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import ControlNetModel, T2IAdapter
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError

from masactrl.errors import ModelNotFound, UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from masactrl.models import LoadedModel

__all__ = ["EMBEDDED_KINDS", "load_network"]

EMBEDDED_KINDS: Final[Mapping[str, str]] = MappingProxyType({"pose": "controlnet"})
"""Kind -> folder beside the embedded model's weights."""

_UNREADABLE = (
    *(OSError, ValueError, RuntimeError, KeyError),
    *(SafetensorError, HfHubHTTPError, LocalEntryNotFoundError),
)
_CLASSES: Final[Mapping[str, Any]] = MappingProxyType(
    {"ControlNetModel": ControlNetModel, "T2IAdapter": T2IAdapter}
)


def load_network(
    model: LoadedModel, kind: str, source: str | None = None
) -> ControlNetModel | T2IAdapter:
    """Load the network of a kind of layout, on the model's device and in its precision.

    Args:
        model: whose U-Net it is for.
        kind: "pose", "edges" or a word of one's own.
        source: folder in diffusers format, `.safetensors` file of a ControlNet, or Hub id; None is
            the embedded model's own.

    Raises:
        ModelNotFound: there is none, or it cannot be read.
        UnsupportedPipeline: it is for another family of U-Nets.
    """
    if model.kind == "flow":
        raise UnsupportedPipeline(
            f"A layout was given, and {model.name} is SD3 or FLUX; layouts lead U-Nets (Stable "
            "Diffusion 1.x, 2.x and XL). Leave it out, or use the pipeline's own ControlNet form."
        )
    name = source or f"the embedded {kind}"
    try:
        network = _load(Path(source), source) if source else _embedded(model, kind)
    except _UNREADABLE as error:
        raise ModelNotFound(
            f"No ControlNet or T2I-Adapter can be read from {name}: {error}"
        ) from error
    _check(network, model.pipeline.unet, name)
    unet: Any = model.pipeline.unet
    moved = network.to(device=model.pipeline._execution_device, dtype=unet.dtype)
    return moved.requires_grad_(False).eval()


def _embedded(model: LoadedModel, kind: str) -> ControlNetModel | T2IAdapter:
    if model.family != "puppets":
        raise ModelNotFound(
            f"{model.name} has no network of its own for {kind}; name a ControlNet or T2I-Adapter "
            f"of its family with --layout-model {kind}=MODEL."
        )
    if kind not in EMBEDDED_KINDS:
        raise ModelNotFound(
            f"The embedded model has no network for {kind}; it has {', '.join(EMBEDDED_KINDS)}."
        )
    weights = Path(str(resources.files("masactrl") / "puppets" / "weights"))
    return _load(weights / EMBEDDED_KINDS[kind], kind)


def _load(path: Path, source: str) -> ControlNetModel | T2IAdapter:
    if path.is_file():
        made: ControlNetModel = ControlNetModel.from_single_file(str(path))
        return made
    local = path.is_dir()
    config = path / "config.json" if local else Path(hf_hub_download(source, "config.json"))
    named = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
    if named not in _CLASSES:
        raise ValueError(f"it is a {named}; accepted are {' and '.join(_CLASSES)}")
    loaded: ControlNetModel | T2IAdapter = _CLASSES[named].from_pretrained(
        str(path) if local else source, torch_dtype=torch.float32, use_safetensors=True
    )
    return loaded


def _check(network: Any, unet: Any, name: str) -> None:
    """Refuse a network whose residuals do not fit, before the U-Net fails in a deep place."""
    if isinstance(network, ControlNetModel):
        facts = ("block_out_channels", "cross_attention_dim", "in_channels")
        wrong = [
            fact
            for fact in facts
            if _plain(getattr(network.config, fact)) != _plain(getattr(unet.config, fact))
        ]
    else:
        wrong = ["channels"] * (
            _plain(network.config.channels) != _plain(unet.config.block_out_channels)
        )
    if wrong:
        raise UnsupportedPipeline(
            f"{name} is for another family of models: its {wrong[0].replace('_', ' ')} are not "
            "those of the U-Net. Take one that was trained for this kind of Stable Diffusion."
        )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
