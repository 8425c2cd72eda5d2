"""From the values of a tab's fields to the request that the command line would build, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from masactrl.app.layout_fields import layouts_in, poses_in
from masactrl.app.painting import painted_mask
from masactrl.errors import ConfigError, PromptError
from masactrl.runs.asked import Asked
from masactrl.runs.request import GenerateRequest
from masactrl.settings.declare import settings_of
from masactrl.settings.shared import RunSettings
from masactrl.studies.axes import Axes

if TYPE_CHECKING:
    from masactrl.runs.invert import EditMasks, EditRequest, InversionRequest
    from masactrl.runs.layout import Layout
    from masactrl.runs.motion import MotionWords

OfPicture: TypeAlias = "tuple[Path, InversionRequest, EditRequest]"
"""A picture, how it is inverted, and its edit."""

Networks = Mapping[str, str | None]
"""Kind of layout -> what reads it; None is the embedded model's own."""

NONE: Networks = MappingProxyType({})

__all__ = [
    "animate_request",
    "compare_request",
    "edit_requests",
    "grid_request",
    "previewed",
    "set_request",
    "shown_values",
]

_FRACTIONS = (
    *("guidance_scale", "strength", "mask_threshold"),
    *("layout_scale", "layout_until", "fps"),
)
_MOST_CELLS = 12  # of a row or a column of a grid


def set_request(values: Mapping[str, Any], networks: Networks = NONE) -> GenerateRequest:
    """Return the request of the tab "Consistent set".

    Raises:
        ConfigError: a value is out of its range.
    """
    asked = {**_plain(values), "target_prompts": _lines(values["target_prompts"])}
    asked["layouts"] = layouts_in(asked, networks)
    return GenerateRequest(**_without_control(asked))


def grid_request(
    values: Mapping[str, Any], networks: Networks = NONE
) -> tuple[GenerateRequest, Axes]:
    """Return the request of the tab "Grid", and its axes: a row for every S, a column for every L.

    Raises:
        ConfigError: a value is out of its range.
    """
    asked = _plain(values)
    steps, layers = (
        _numbers(str(asked.pop(name)), what)
        for name, what in (("start_steps", "start steps"), ("start_layers", "start layers"))
    )
    asked["target_prompts"] = (asked.pop("target_prompt"),)
    asked["layouts"] = layouts_in(asked, networks)
    return GenerateRequest(**asked), Axes(start_steps=steps, start_layers=layers)


def compare_request(
    values: Mapping[str, Any], networks: Networks = NONE
) -> tuple[GenerateRequest, tuple[str, ...]]:
    """Return the request of the tab "Compare", and the methods."""
    asked = _plain(values)
    methods = tuple(asked.pop("methods") or ())
    asked["target_prompts"] = (asked.pop("target_prompt"),)
    asked["layouts"] = layouts_in(asked, networks)
    return GenerateRequest(**asked), methods


def animate_request(
    values: Mapping[str, Any], networks: Networks = NONE
) -> tuple[Asked, Layout, MotionWords]:
    """Return what the tab "Animate" asks, the poses, and what is said of the frames.

    Raises:
        ConfigError: a value is out of its range, or a picture cannot be read.
    """
    from masactrl.runs.invert import EditRequest

    asked = _plain(values)
    asked["target_prompts"] = (asked.pop("target_prompt"),)
    poses, motion = poses_in(asked, networks, asked["height"] or 256)
    photo, inversion = asked.pop("photo"), asked.pop("inversion")
    if not photo:
        return Asked(request=GenerateRequest(**asked)), poses, motion
    inverted = _inversion(asked, inversion)
    for name in ("seed", "width", "height"):  # a picture has its own noise and size
        del asked[name]
    asked["negative_prompt"] = asked["negative_prompt"] or None
    edit = EditRequest(**asked, compare=False)
    return Asked(request=edit, picture=Path(photo), inversion=inverted), poses, motion


def previewed(values: Mapping[str, Any], steps: int, *, edit: bool) -> dict[str, Any]:
    """Return the values of a tab as a run of fewer steps has them: control begins where it did.

    An ``edit`` leaves the targets without control out, too. Values that ask for no more steps than
    that are left as they are.
    """
    found = dict(values) | ({"compare": False} if edit else {})
    before = int(found.get("steps") or 0)
    if before <= steps:
        return found
    found["steps"] = steps
    if "start_step" in found:
        found["start_step"] = round(int(found["start_step"] or 0) * steps / before)
    return found


def _inversion(asked: dict[str, Any], method: str, **own: Any) -> InversionRequest:
    """Take what belongs to the inversion out of a tab's values."""
    from masactrl.runs.invert import InversionRequest

    run = {name: asked.pop(name) for name in settings_of(RunSettings)}
    return InversionRequest(source_prompt=asked.pop("source_prompt"), method=method, **run, **own)


def edit_requests(values: Mapping[str, Any], networks: Networks = NONE) -> OfPicture:
    """Return the picture and the two requests of the tab "Edit a photo".

    Raises:
        ConfigError: there is no picture, or a value is out of its range.
    """
    from masactrl.runs.invert import EditMasks, EditRequest

    asked = _plain(values)
    if not asked["picture"]:
        raise ConfigError("There is no picture; choose one first.")
    picture = Path(asked.pop("picture"))
    method, shift = asked.pop("inversion"), asked.pop("noise_shift") or None
    inversion = _inversion(asked, method, noise_shift=shift)
    source, target = asked.pop("source_word").strip(), asked.pop("target_word").strip()
    mask, painted = asked.pop("mask"), painted_mask(asked.pop("painted"))
    threshold = asked.pop("mask_threshold")
    ways = {"words": source or target, "a mask file": mask, "a painted mask": painted}
    given = [name for name, one in ways.items() if one]
    if len(given) > 1:
        raise ConfigError(f"The subject is given by {' and by '.join(given)}; choose one of them.")
    file = Path(mask) if mask else painted
    masks = None if file is None else _drawn(file)
    if source or target:
        masks = EditMasks(source=source or None, targets=target or None, threshold=threshold)
    asked = _without_control(asked)
    asked["layouts"] = layouts_in(asked, networks)
    return (
        picture,
        inversion,
        EditRequest(
            **asked
            | {
                "target_prompts": _lines(values["target_prompts"]),
                "negative_prompt": asked["negative_prompt"] or None,
                "masks": masks,
            }
        ),
    )


def _drawn(path: Path) -> EditMasks:
    """Return a mask file, a grey picture that is white for the subject, with its name and hash.

    Raises:
        ConfigError: it is no picture.
    """
    from masactrl.models.origin import file_hash
    from masactrl.pictures.input import read_mask
    from masactrl.runs.invert import EditMasks
    from masactrl.runs.recipe import InputStated

    return EditMasks(
        source=read_mask(path),
        stated=(InputStated(name=path.name, hash=file_hash(path)),),
    )


def shown_values(names: Sequence[str], request: Any) -> dict[str, Any]:
    """Return what fields show for a request, by name; unnamed ones are left out."""
    found = {one.name: getattr(request, one.name) for one in fields(request)}
    if "target_prompts" in found:
        found["target_prompts"] = "\n".join(request.target_prompts)
    return {name: found[name] for name in names if name in found and found[name] is not None}


def _without_control(asked: dict[str, Any]) -> dict[str, Any]:
    """Leave S and L out with another method than masactrl, whose they are."""
    if asked["method"] == "masactrl":
        return asked
    return {name: one for name, one in asked.items() if not name.startswith("start_")}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as requests want them: whole numbers whole, no field without a value."""
    found = {}
    for name, value in values.items():
        whole = isinstance(value, float) and value.is_integer() and name not in _FRACTIONS
        found[name] = int(value) if whole else value
    return found


def _lines(text: str) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in str(text or "").splitlines() if line.strip())
    if not lines:
        raise PromptError("There is no target; write at least one line.")
    return lines


def _numbers(text: str, what: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(
            f"{text!r} are no {what}; write numbers between commas: 2, 4, 8."
        ) from error
    if len(found) > _MOST_CELLS:
        raise ConfigError(f"{len(found)} {what} were given; at most {_MOST_CELLS} fit on a sheet.")
    return found
