"""A row of a manifest: which of its columns are settings, and the requests that they make.

The names are those of the command line (`start-step`, or `start_step`) and of Python
(`guidance_scale` for `cfg`); both come from the declarations. A row with `file_name` is an edit,
one with `source_prompt` alone a picture from prompts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_origin

from masactrl.errors import ConfigError
from masactrl.pictures.files import at_home
from masactrl.runs.asked import Asked
from masactrl.runs.edit_request import EditRequest, split_seed
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.layout import LayoutWords
from masactrl.runs.mask_words import MaskWords
from masactrl.runs.request import GenerateRequest
from masactrl.settings.declare import Declared, settings_of
from masactrl.settings.shared import parse_options

__all__ = ["Kind", "Row", "names_of", "row_of"]

Kind = Literal["edit", "generate"]
"""What a row asks for."""

PICTURE = "file_name"
"""The column that makes a row an edit; its name is that of the Hub's image folders."""

_PARTS: Mapping[Kind, tuple[type, ...]] = MappingProxyType(
    {
        "edit": (EditRequest, InversionRequest, MaskWords, LayoutWords),
        "generate": (GenerateRequest, LayoutWords),
    }
)

_ALSO: Mapping[Kind, Mapping[str, str]] = MappingProxyType(
    {
        "edit": {
            "prompt": "from",  # the field's name of before
            "target_prompt": "to",
            "mask": "mask_file",
            "target_mask": "target_mask_file",
        },
        "generate": {"source_prompt": "source", "target_prompt": "to"},
    }
)
"""Names that manifests have beside those of the declarations."""

_FILES = ("mask_file", "target_mask_file")
_PAIRS = ("layout", "layout_model")  # KIND=FILE

_TRUTH: Mapping[str, bool] = MappingProxyType(
    {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, its columns told apart.

    Attributes:
        number: place in the manifest, from 1.
        line: of the file; its number where the rows are no lines.
        kind: see `Kind`.
        settings: name of a setting -> value, of those that were given; files by their full path.
        carried: the other columns, as they were given.
        shown: the picture as the manifest names it; empty where there is none.
    """

    number: int
    line: int
    kind: Kind
    settings: Mapping[str, Any]
    carried: Mapping[str, Any]
    shown: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that go in, the picture first."""
        found = [self.settings.get(PICTURE), self.settings.get("mask_file")]
        found += self.settings.get("target_mask_file", ())
        found += [word.partition("=")[2] for word in self.settings.get("layout", ())]
        return tuple(Path(one) for one in found if one)

    def asked(self) -> Asked:
        """Return the requests, masks and layouts read from their files.

        Raises:
            ConfigError: a value is out of its range, or a file cannot be read.
        """
        values = {name: value for name, value in self.settings.items() if name != PICTURE}
        layouts = LayoutWords(**_of(LayoutWords, self.kind, values)).layouts()
        if self.kind == "generate":
            size = _size(values.pop("size", None))
            given = _of(GenerateRequest, self.kind, values)
            return Asked(request=GenerateRequest(**{**given, **size, "layouts": layouts}))
        inverted, edited = (_of(one, self.kind, values) for one in (InversionRequest, EditRequest))
        seeds = split_seed(
            values.get("seed"),
            method=values.get("method", settings_of(EditRequest)["method"].default),
            inversion=values.get("inversion", settings_of(InversionRequest)["method"].default),
            fresh_steps=values.get("fresh_steps"),
            fresh_noise=values.get("fresh_noise"),
        )
        masks = MaskWords(**_of(MaskWords, self.kind, values)).masks()
        # Features recorded while the picture was inverted are approximate, and would be there for
        # some of the rows that share it: a row's pictures do not depend on those before it.
        edited.setdefault("mode", "cached")
        inversion = InversionRequest(**{**inverted, "seed": seeds[0]})
        request = EditRequest(**{**edited, "seed": seeds[1], "masks": masks, "layouts": layouts})
        return Asked(request=request, picture=Path(self.settings[PICTURE]), inversion=inversion)


def row_of(
    values: Mapping[str, Any], usual: Mapping[str, Any], *, number: int, line: int, folder: Path
) -> Row:
    """Return a row from the values of its columns.

    Args:
        values: column -> value; None, an empty text and NaN are not given.
        usual: the same of all rows; what the row itself says goes before it.
        number: see `Row`.
        line: see `Row`.
        folder: what paths are relative to.

    Raises:
        ConfigError: a column is no text, a value is of another kind, a setting is given twice.
    """
    given = {name: value for name, value in values.items() if _given(value)}
    for name, value in given.items():
        if not isinstance(name, str):
            raise ConfigError("The row has more cells than there are columns.")
        _check_text(name, value)
    kind: Kind = "edit" if PICTURE in given else "generate"
    if kind == "generate" and "source_prompt" not in given and "source" not in given:
        raise ConfigError("The row has neither file_name nor source_prompt; give one of them.")
    names = names_of(kind)
    settings: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    for column, value in given.items():
        name = names.get(column.strip().replace("-", "_"), "")
        if column == PICTURE:
            settings[PICTURE] = _path(_text(PICTURE, value), folder)
        elif not name:
            carried[column] = value
        elif name in settings:
            raise ConfigError(f"{column} is given twice, under two names; give it once.")
        else:
            settings[name] = _placed(name, _valued(kind, name, value), folder)
    here = Path()
    for name, value in usual.items():
        known = names.get(name.strip().replace("-", "_"))
        if known is not None:
            settings.setdefault(known, _placed(known, _valued(kind, known, value), here))
    if "to" not in settings:
        raise ConfigError("The row has no target_prompt; say what its picture should show.")
    shown = str(given.get(PICTURE, ""))
    return Row(number=number, line=line, kind=kind, settings=settings, carried=carried, shown=shown)


@cache
def names_of(kind: Kind) -> Mapping[str, str]:
    """Every name that a column may have -> the setting that it is.

    A setting is named by its flag, or by its field where it has none; two requests that have a flag
    in common have one setting.
    """
    names = {**_ALSO[kind]}
    for owner in _PARTS[kind]:
        for one in settings_of(owner).values():
            names[_name(one)] = _name(one)
    for owner in _PARTS[kind]:  # the edit's own fields before those of its inversion
        for one in settings_of(owner).values():
            names.setdefault(one.name, _name(one))
    if kind == "generate":
        names["size"] = "size"
    return MappingProxyType(names)


def _name(declared: Declared) -> str:
    return (declared.flag or declared.name).replace("-", "_")


@cache
def _declared(kind: Kind) -> Mapping[str, Declared]:
    """Setting -> its declaration; of those that requests have in common, the first."""
    found: dict[str, Declared] = {}
    for owner in _PARTS[kind]:
        for one in settings_of(owner).values():
            found.setdefault(_name(one), one)
    return found


def _of(owner: type, kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Field of a request -> value; the seed of an edit is nobody's, `split_seed` gives it."""
    found = {}
    for field, one in settings_of(owner).items():
        shared = kind == "edit" and field == "seed"
        if not shared and _name(one) in values:
            found[field] = values[_name(one)]
    return found


def _given(value: Any) -> bool:
    return value is not None and value != "" and value == value


def _check_text(name: str, value: Any) -> None:
    """Refuse text that no file can hold; `ConfigError`."""
    try:
        json.dumps([name, value], ensure_ascii=False, allow_nan=False, default=str).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{name!a} holds what cannot be written as text or number.") from error


def _valued(kind: Kind, name: str, value: Any) -> Any:
    """Return a value as its request takes it; CSV knows text only."""
    if name == "size":
        return _text(name, value)
    declared = _declared(kind)[name]
    setting, wanted = declared.setting, declared.kind
    if setting.read is not None:
        return _options(name, value)
    if get_origin(wanted) is tuple:
        return _texts(name, value)
    if isinstance(value, str) and wanted in (int, float, bool):
        return _number(name, value, wanted)
    if wanted in (int, float, bool):
        return value
    return _text(name, value)


def _number(name: str, text: str, kind: type) -> Any:
    said = text.strip()
    try:
        if kind is bool:
            return _TRUTH[said.lower()]
        return int(said) if kind is int and "." not in said else float(said)
    except (ValueError, KeyError):
        what = {bool: "true and false", int: "whole numbers", float: "numbers"}[kind]
        raise ConfigError(f"{name}={text!r} was given; accepted are {what}.") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}={value!r} was given; accepted is a text.")
    if "\0" in value:
        raise ConfigError(f"{name}={value!r} holds a zero byte, which no text here may.")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # a weight may begin so, too
            value = json.loads(value)
    if isinstance(value, Mapping) and name in _PAIRS:
        value = [f"{kind}={each}" for kind, one in value.items() for each in _texts(name, one)]
    if isinstance(value, str):
        return (_text(name, value),)
    if not isinstance(value, Sequence) or not value:
        raise ConfigError(f"{name}={value!r} was given; accepted is a text or a list of texts.")
    return tuple(_text(name, one) for one in value)


def _options(name: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{name}={value!r} is no JSON object: {error}.") from error
    if isinstance(value, Mapping):
        value = [f"{key}={json.dumps(one)}" for key, one in value.items()]
    return parse_options(_texts(name, value))


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    width, _, height = text.lower().replace("\u00d7", "x").partition("x")
    try:
        return {"width": int(width), "height": int(height)}
    except ValueError:
        raise ConfigError(f"size={text!r} was given; write width x height, like 512x768.") from None


def _placed(name: str, value: Any, folder: Path) -> Any:
    """Return a value in which files have their full path."""
    if name in _FILES:
        several = isinstance(value, tuple)
        return tuple(_path(one, folder) for one in value) if several else _path(value, folder)
    if name not in _PAIRS:
        return value
    placed = []
    for word in value:
        kind, sign, file = word.partition("=")
        # A network may be a Hub id, which is no path unless there is something of its name.
        here = name == "layout" or (file and (folder / file).exists())
        placed.append(f"{kind}={_path(file, folder)}" if sign and file and here else word)
    return tuple(placed)


def _path(text: str, folder: Path) -> str:
    return str((folder / at_home(text)).absolute())
