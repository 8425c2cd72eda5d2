"""What the words after `--model` mean: the embedded model, a folder, one file or a Hub id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.pictures.files import at_home

INDEX = "model_index.json"
"""The file that makes a folder a pipeline in diffusers format."""

EMBEDDED = "puppets"
"""The name of the model inside this package that is used where none is named."""

EMBEDDED_FOLDERS: Final[Mapping[str, str]] = MappingProxyType(
    {EMBEDDED: "weights", "puppets-sd3": "weights_sd3"}
)
"""Names of all models inside this package, and their folders in `masactrl.puppets`."""

ACCEPTED = (
    f"accepted are {' and '.join(EMBEDDED_FOLDERS)} (the embedded models), a folder in diffusers "
    "format, a .safetensors file, and a Hub id written owner/name."
)

PICKLES = frozenset({".bin", ".ckpt", ".pkl", ".pt", ".pth"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model is.

    Attributes:
        kind: a folder in diffusers format, one file of weights, or a repository of the Hub.
        source: the path or the Hub id.
        name: what to call the model.
    """

    kind: Literal["folder", "file", "hub"]
    source: str
    name: str


def locate(model: str | Path, *, allow_pickle: bool = False) -> ModelSource:
    """Return where the model is; looks at the disk, never at the network.

    A name that exists on the disk is taken from there; the names of the embedded models are the one
    exception (write ./puppets for a folder of that name).

    Args:
        model: "puppets", "puppets-sd3", a path or a Hub id.
        allow_pickle: whether a pickle checkpoint (.ckpt, .bin, .pt, .pth) is accepted too.

    Raises:
        ModelNotFound: it is nothing of the kind.
        ConfigError: it is a pickle checkpoint, which could run code when loaded.
    """
    if model in EMBEDDED_FOLDERS:
        return _embedded(str(model))
    path = at_home(model)
    pickled = path.suffix.lower() in PICKLES
    if pickled and not allow_pickle:
        raise ConfigError(
            f"{path} is a pickle checkpoint, which can run code when loaded and is refused; "
            "convert it to .safetensors first, or allow it with --allow-pickle (allow_pickle=True) "
            "if you trust where it comes from."
        )
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise ModelNotFound(
                f"The folder {path} holds no model in diffusers format (no {INDEX}); "
                f"{_meant(path)}{ACCEPTED}"
            )
        return ModelSource(kind="folder", source=str(path), name=path.resolve().name)
    if path.is_file():
        if path.suffix.lower() != ".safetensors" and not pickled:
            raise ModelNotFound(f"The file {path} is no .safetensors file; {ACCEPTED}")
        return ModelSource(kind="file", source=str(path), name=path.stem)
    if isinstance(model, str) and path.suffix != ".safetensors" and _HUB_ID.fullmatch(model):
        return ModelSource(kind="hub", source=model, name=model)
    raise ModelNotFound(f"There is no model {str(model)!r}; {ACCEPTED}")


def _meant(folder: Path) -> str:
    """Return what somebody may have meant who named this folder, as the begin of a sentence."""
    inside = [one.parent for one in (*folder.glob(f"*/{INDEX}"), *folder.glob(f"*/*/{INDEX}"))]
    files = sorted(folder.glob("*.safetensors"))
    if len(inside) == 1:  # also a folder of the Hub's cache
        return f"did you mean {inside[0]}? "
    if len(files) == 1:
        return f"did you mean the file {files[0]}? "
    return ""


def _embedded(name: str) -> ModelSource:
    """Return the folder of the weights inside this package."""
    folder = Path(str(resources.files("masactrl") / "puppets" / EMBEDDED_FOLDERS[name]))
    if not (folder / INDEX).is_file():
        raise ModelNotFound(
            f"The embedded model {name} is not part of this installation (its weights are missing "
            f"from {folder}); install masactrl anew, or name another model."
        )
    return ModelSource(kind="folder", source=str(folder), name=name)
