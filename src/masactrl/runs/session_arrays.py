"""Sessions on the disk: tensors and recipe in one `.safetensors`, whole or not at all.

A digest over everything inside tells a file that was altered, though it can still be read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from masactrl.errors import ConfigError, OutputError
from masactrl.pictures.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["read_bundle", "write_bundle"]

_KEY, _DIGEST = "masactrl", "sha256"


def write_bundle(path: Path, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
    """Write tensors and recipe beside the place and rename them into it; a file is replaced.

    Raises:
        OutputError: it cannot be written there.
    """
    text = json.dumps(recipe, sort_keys=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as beside:
        try:
            save_file(whole, beside, metadata={_KEY: text, _DIGEST: _digest(whole, text)})
        except SafetensorError as error:
            raise OutputError(f"{path} cannot be written: {error}.") from error


def read_bundle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the recipe of a file that `write_bundle` wrote.

    Raises:
        ConfigError: it is missing, of another kind, cut off or altered.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ConfigError(f"{path} holds no session of masactrl.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} is no session file, or was cut off; invert the picture anew."
        ) from error
    text = metadata[_KEY]
    if metadata.get(_DIGEST) != _digest(tensors, text):
        raise ConfigError(f"{path} was altered or damaged; invert the picture anew.")
    return tensors, dict(json.loads(text))


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
