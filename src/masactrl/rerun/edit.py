"""Recipes of the kind "edit": the command that makes the edit again, and the run itself.

What a recipe says of files is a name and a hash. The files themselves, the picture first, then the
mask of the source and those of the targets, come from the caller in that order.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.errors import ConfigError
from masactrl.rerun.command_line import command_words, declared_flags, declared_options
from masactrl.rerun.generate import refuse_object, request_to_run
from masactrl.rerun.layouts import AskedLayout, layout_options, layouts_drawn
from masactrl.runs.edit_request import Mode, ResolvedEdit
from masactrl.runs.recipe import Recipe, checked
from masactrl.runs.result import SHEET
from masactrl.settings.shared import FROM_SOURCE

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.rerun.kinds import RerunInputs
    from masactrl.runs.edit_request import EditMasks, EditRequest
    from masactrl.runs.inversion_request import InversionRequest
    from masactrl.studies.source import Request, Source

__all__ = ["AskedMasks", "edit_of", "edit_steps", "edit_words", "rerun_edit", "source_to_run"]

_CALLS = MappingProxyType({"ahead": 2, "cached": 3, "joint": 2})
"""Passes over all steps: inversion, recording, edit; or inversion and edit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedMasks:
    """Masks as a recipe tells them.

    Attributes:
        by: pictures, which the recipe's inputs name, or words.
        threshold: of words.
        source: words of the source.
        targets: words of every target.
        files: how many of the recipe's inputs are masks, the source's first.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = MappingProxyType({"extra": "forbid"})

    by: Literal["pictures", "words"]
    threshold: float
    source: str | int | tuple[str | int, ...] | None = None
    targets: tuple[str | int | tuple[str | int, ...], ...] = ()
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked(ResolvedEdit):
    """An edit as a recipe tells it: of pictures only names, and how the source was inverted."""

    masks: AskedMasks | None  # type: ignore[assignment]
    layouts: tuple[AskedLayout, ...] = ()  # type: ignore[assignment]
    control: None = None
    inversion: dict[str, Any]

    @property
    def drawn(self) -> int:
        """How many of the inputs are pictures of layouts, the last ones."""
        return sum(one.files for one in self.layouts)


def _asked(recipe: Recipe) -> tuple[_Asked, InversionRequest]:
    from masactrl.runs.inversion_request import InversionRequest

    refuse_object(recipe.request)
    asked = checked(_Asked, dict(recipe.request))
    inversion = checked(InversionRequest, asked.inversion)
    masks = 0 if asked.masks is None else asked.masks.files
    if len(recipe.inputs) != 1 + masks + asked.drawn or masks < 0:
        raise ConfigError(
            "The recipe does not name the picture that was edited: it was made from a picture "
            "that was open already, in Python. Save it, edit the file, and its recipe will do."
        )
    if asked.masks is not None and asked.masks.by == "pictures" and not masks:
        raise ConfigError(
            "The picture was made with masks that were no files, and a recipe holds none; make it "
            "again with the masks that made it."
        )
    return asked, replace(inversion, steps=asked.steps)


def edit_of(
    recipe: Recipe,
    files: tuple[Path, ...] = (),
    networks: Mapping[str, str] = MappingProxyType({}),
) -> tuple[InversionRequest, EditRequest, AskedMasks | None]:
    """Return how the picture was inverted, what was made of it, and the masks in words.

    Args:
        recipe: of the kind "edit".
        files: of the masks that the recipe only names, the source's first, then of the layouts;
            without them the request has none of these.
        networks: what reads the layouts, by kind, of those that are local.

    Raises:
        ConfigError: the recipe holds no edit, or asks for what cannot be.
    """
    from masactrl.runs.edit_request import EditRequest

    asked, inversion = _asked(recipe)
    count = len(files) - asked.drawn
    drawn = _masks(asked.masks, files[:count])
    layouts = layouts_drawn(recipe.request, files[count:], networks) if files else ()
    values = {one.name: getattr(asked, one.name) for one in fields(EditRequest)}
    if asked.method != "masactrl":
        # A resolved request has S and L also where another method took no notice.
        values |= {"start_step": None, "start_layer": None}
    values |= {"masks": drawn, "layouts": layouts}
    values["keep_background"] = asked.keep_background and drawn is not None
    request = EditRequest(**values)
    return inversion, request, asked.masks


def _masks(asked: AskedMasks | None, files: tuple[Path, ...]) -> EditMasks | None:
    from masactrl.pictures.input import read_mask
    from masactrl.runs.edit_request import EditMasks

    if asked is None:
        return None
    if asked.by == "words":
        source, targets = asked.source, asked.targets
        return EditMasks(source=source, targets=targets or None, threshold=asked.threshold)
    if not files:
        return None
    first, *others = (read_mask(one) for one in files)
    return EditMasks(
        source=first,
        targets=tuple(others) or None,
        threshold=asked.threshold,
        on_empty="warn",  # it was allowed when the picture was made
    )


def source_to_run(model: LoadedModel, recipe: Recipe, given: RerunInputs) -> tuple[Source, Request]:
    """Return the source of a study's plain run, and what is asked of it.

    Args:
        model: that made it.
        recipe: of the kind "generate" or "edit".
        given: inputs and progress.
    """
    if recipe.kind == "generate":
        return model, request_to_run(recipe.request, given)
    from masactrl.runs.invert import invert

    picture, *files = given.inputs
    inversion, request, _ = edit_of(recipe, tuple(files), given.networks)
    return invert(model, picture, inversion, on_step=given.on_step), request


def rerun_edit(model: LoadedModel, recipe: Recipe, given: RerunInputs) -> Mapping[str, Image.Image]:
    """Invert the picture that the caller named, edit it, and return all pictures by name."""
    from masactrl.runs.invert import invert

    picture, *files = given.inputs
    inversion, request, _ = edit_of(recipe, tuple(files), given.networks)
    session = invert(model, picture, inversion, edit=request, on_step=given.on_step)
    result = session.edit(request, on_step=given.on_step)
    return {**result.pictures(), SHEET: result.to_sheet()}


def edit_steps(recipe: Recipe) -> int:
    """Return the steps of inversion, recording and edit together, at most."""
    asked, _ = _asked(recipe)
    # Such targets are a run of their own beside those that they are compared with.
    own = (asked.target_steps or asked.steps) if asked.method in FROM_SOURCE else 0
    return asked.steps * _CALLS[asked.mode] + own


def edit_words(
    recipe: Recipe, *, leave: Container[str] = (), flags: Sequence[str] = ()
) -> list[str]:
    """Return the words of `masactrl edit`, without the options in `leave` and with more flags."""
    asked, inversion = _asked(recipe)
    picture, *files = input_names(recipe)
    options = [one for one in edit_options(recipe) if one[0] not in leave]
    count = len(files) - asked.drawn
    own = [
        *_mask_options(asked.masks, files[:count]),
        *layout_options(asked.layouts, files[count:]),
    ]
    words = command_words("edit", [picture], options + own)
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *_flags(asked, inversion), *flags, *words[at:]]


def input_names(recipe: Recipe) -> list[str]:
    """Return the names of the inputs without any folder, which a recipe may not choose."""
    return [PurePath(one.name).name or "picture" for one in recipe.inputs]


def study_options(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the options of an edit that a study made; it records its source once in any case."""
    return [one for one in edit_options(recipe) if one != ("mode", "cached")]


def edit_options(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the options of `masactrl edit` that are no flags and name no masks, as pairs.

    Raises:
        ConfigError: the command line has no word for what was asked for.
    """
    asked, inversion = _asked(recipe)
    if not asked.half:
        raise ConfigError(
            "The source's features were kept in full precision (half=False), for which the command "
            "line has no word; `masactrl rerun` makes the picture again."
        )
    _, request, _ = edit_of(recipe)
    seed = _seed(asked, inversion)
    return [
        *declared_options(replace(request, mode=_mode(asked))),
        *declared_options(replace(inversion, seed=None)),
        *([] if seed is None else [("seed", str(seed))]),
    ]


def _mode(asked: _Asked) -> Mode:
    """What was said of it: a resolved edit by another method than masactrl is always joint."""
    return asked.mode if asked.method == "masactrl" else "ahead"


def _seed(asked: _Asked, inversion: InversionRequest) -> int | None:
    """The one seed of the command line, of the inversion and of SDEdit."""
    if asked.seed is None or inversion.seed is None or asked.seed == inversion.seed:
        return inversion.seed if asked.seed is None else asked.seed
    raise ConfigError(
        f"Inversion and edit drew noise from two seeds ({inversion.seed} and {asked.seed}), and "
        "the command line has one for both; `masactrl rerun` makes the picture again."
    )


def _flags(asked: _Asked, inversion: InversionRequest) -> list[str]:
    flags = ["--keep-background"] if asked.keep_background else []
    flags += [] if asked.compare else ["--no-compare"]
    return flags + declared_flags(inversion)


def _mask_options(asked: AskedMasks | None, files: list[str]) -> list[tuple[str, str]]:
    if asked is None:
        return []
    if asked.by == "pictures":
        return [("mask_file", files[0]), *(("target_mask_file", one) for one in files[1:])]
    each = [*asked.targets, *([] if asked.source is None else [asked.source])]
    if not all(isinstance(one, str) for one in each):
        raise ConfigError(
            "The masks are from places of tokens, for which the command line has no word; "
            "`masactrl rerun` makes the picture again."
        )
    options = [("mask_word", str(one)) for one in asked.targets]
    options += [] if asked.source is None else [("source_mask_word", str(asked.source))]
    return [*options, ("mask_threshold", repr(asked.threshold))]
