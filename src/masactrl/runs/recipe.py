"""The recipe in every picture: how it was made, in words that make it again.

    {"schema": 2, "masactrl": "0.1.0", "kind": "generate", "picture": "target1-controlled",
     "model": {"name": "puppets", "kind": "embedded", "revision": null, "weights": "3f...",
               "loras": []},
     "device": "cpu", "dtype": "float32", "request": {...}, "inputs": [], "versions": {...}}

It is JSON in the PNG text chunk "masactrl" and in a file beside the sheet of a run. What it says
may come from anyone: it is checked, and no name in it is ever taken for a path of this machine.
`request` belongs to the kind; `masactrl.rerun.kinds` knows the kinds.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping  # pydantic looks for it when it checks what is parsed
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from masactrl._version import __version__
from masactrl.errors import ConfigError
from masactrl.pictures.files import read_text
from masactrl.pictures.images import read_recipe
from masactrl.settings.old_names import present_names

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

__all__ = [
    "PARAMETERS_KEY",
    "SCHEMA",
    "STRICT",
    "InputStated",
    "LoraStated",
    "ModelStated",
    "Recipe",
    "checked",
    "find_recipe",
    "parameters_text",
    "stated_model",
    "versions",
]

SCHEMA = 2
"""Version of the shape; one higher whenever an older reader could misread it."""

PARAMETERS_KEY = "parameters"
"""PNG text chunk in which many other tools look for prompt and settings."""

_PACKAGES = ("torch", "diffusers", "transformers")
_MOST_SIDECAR = 2**20  # bytes; a recipe has a few thousand

STRICT = MappingProxyType({"extra": "forbid"})  # for pydantic: no word is silently ignored

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraStated:
    """A LoRA: name of its file, the weight it was added with, start of the file's SHA-256."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT

    name: str
    scale: float
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStated:
    """The model; fields as in `Origin`, plus its name, how it was distilled and how compiled."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT

    name: str
    kind: str = "object"
    revision: str | None = None
    weights: str | None = None
    loras: tuple[LoraStated, ...] = ()
    recipe: str = ""
    compiled: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStated:
    """A file that a picture was made from: its name without folder, start of its SHA-256."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT

    name: str
    hash: str


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide about numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a picture was made.

    Attributes:
        kind: of run: a name in `masactrl.rerun.kinds.KINDS`, "generate" for example.
        picture: which picture of the run this is, "target1-controlled" for example.
        model: what made it.
        device: kind of device, for example "cpu".
        dtype: precision, for example "float32".
        request: what was asked for, nothing left open, as values that JSON knows.
        inputs: files that went in.
        versions: of Python and packages.
        masactrl: version of this package.
        schema: see `SCHEMA`.
    """

    kind: str
    picture: str
    model: ModelStated
    device: str
    dtype: str
    request: Mapping[str, Any]
    inputs: tuple[InputStated, ...] = ()
    versions: Mapping[str, str] = field(default_factory=versions)
    masactrl: str = __version__
    schema: int = SCHEMA

    def of(self, picture: str) -> Recipe:
        """Return the recipe of another picture of the same run."""
        return replace(self, picture=picture)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as values that JSON knows, its schema first."""
        values = asdict(self)
        head = {name: values.pop(name) for name in ("schema", "masactrl")}
        # Through JSON, so that what was written and what is read back are equal.
        plain: dict[str, Any] = json.loads(json.dumps(head | values, default=str))
        return plain

    @classmethod
    def parse(cls, values: object) -> Recipe:
        """Return the recipe that JSON values hold.

        Raises:
            ConfigError: they are of another schema, or no recipe.
        """
        if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
            raise ConfigError("This is no recipe of masactrl: it names no schema.")
        schema = values["schema"]
        if schema > SCHEMA:
            raise ConfigError(
                f"The recipe has schema {schema}, and masactrl {__version__} knows up to {SCHEMA}; "
                "update masactrl to use it."
            )
        if schema < SCHEMA:
            raise ConfigError(
                f"The recipe has schema {schema} of an early version, which says too little to "
                "make the picture again; `masactrl info --json` shows it."
            )
        return checked(cls, values)


def checked(kind: type[Value], values: object) -> Value:
    """Return a dataclass made from JSON values, every name and type of which is checked.

    Raises:
        ConfigError: a name is unknown, a value has another type or is out of its range.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(values, dict):
        raise ConfigError("The recipe is damaged: an object was expected.")
    values = present_names(kind, values)
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in values.keys() - known)
    if unknown:
        raise ConfigError(f"The recipe holds what is not known: {', '.join(unknown)}.")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'recipe'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(f"The recipe cannot be used: {problems}.") from error


def stated_model(model: LoadedModel) -> ModelStated:
    """Return what a recipe says of a loaded model."""
    origin = model.origin
    return ModelStated(
        name=model.name,
        kind=origin.kind,
        revision=origin.revision,
        weights=origin.weights,
        loras=tuple(
            LoraStated(name=one.name, scale=one.scale, hash=one.hash) for one in origin.loras
        ),
        recipe=model.preset.distilled,
        compiled=model.compiled,
    )


def find_recipe(path: Path) -> dict[str, Any]:
    """Return the recipe inside a PNG, or in the .json file beside a sheet, as it stands there.

    Raises:
        ConfigError: the file is missing, unreadable, or holds none.
    """
    if path.suffix.lower() != ".json":
        recipe = read_recipe(path)
        if recipe is None:
            raise ConfigError(f"{path} carries no recipe of masactrl.")
        return recipe
    try:
        if path.stat().st_size > _MOST_SIDECAR:
            raise ConfigError(f"{path} is too large for a recipe.")
        values = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as a recipe: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no recipe of masactrl.")
    return values


def parameters_text(recipe: Recipe, prompt: str) -> str:
    """Return prompt and settings the way that many other tools read them from a picture.

    Derived from the recipe, for people and other tools; nothing here reads it back.
    """
    # A cell of a sweep has what it was asked for one floor below, in the run that it is.
    asked = recipe.request.get("run", recipe.request)
    lines = [prompt]
    if negative := asked.get("negative_prompt"):
        lines.append(f"Negative prompt: {negative}")
    size = f"{asked['width']}x{asked['height']}" if {"width", "height"} <= asked.keys() else None
    told = {
        "Steps": asked.get("steps"),
        "Sampler": "DDIM",
        "CFG scale": asked.get("guidance_scale"),
        "Seed": asked.get("seed"),
        "Size": size,
        "Model hash": recipe.model.weights,
        "Model": recipe.model.name,
        "Version": f"masactrl {recipe.masactrl}",
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in told.items() if value is not None))
    return "\n".join(lines)
