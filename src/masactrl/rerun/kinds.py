"""From a recipe back to a picture: the command that makes it, the run, and how close it came.

A command that puts its own `kind` into recipes adds one line to `KINDS`. What a recipe names of
this machine (a model in a folder, a LoRA, an input picture) is never looked for by its name: the
caller gives the path, and the hash in the recipe says whether it is the same file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from masactrl.errors import ConfigError
from masactrl.models.locate import EMBEDDED_FOLDERS
from masactrl.pictures.files import at_home
from masactrl.pictures.images import as_rgb, contact_sheet
from masactrl.rerun.animate import animate_steps, animate_words, rerun_animate
from masactrl.rerun.attention import attention_steps, attention_words, rerun_attention
from masactrl.rerun.auto import auto_steps, auto_words, rerun_auto
from masactrl.rerun.command_line import shell_line
from masactrl.rerun.compare import compare_steps, compare_words, rerun_compare
from masactrl.rerun.edit import edit_steps, edit_words, rerun_edit
from masactrl.rerun.generate import generate_steps, generate_words, request_of, rerun_generate
from masactrl.rerun.sweep import rerun_sweep, sweep_steps, sweep_words
from masactrl.runs.generate import GenerateRequest, GenerateResult, StepRecord, generate
from masactrl.runs.recipe import Recipe
from masactrl.runs.result import HEADERS

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel

__all__ = [
    "KINDS",
    "PictureDifference",
    "RecipeKind",
    "RerunInputs",
    "command_line",
    "compare",
    "hub_id",
    "kind_of",
    "request_of",
    "rerun_recipe",
]


_COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunInputs:
    """What a run needs beside the model and the recipe.

    Attributes:
        inputs: one path for each of the recipe's inputs, in order.
        on_step: called after each denoising step.
        networks: kind of a layout -> where the network is that read it, of those that are local.
    """

    inputs: tuple[Path, ...] = ()
    on_step: Callable[[StepRecord], None] | None = None
    networks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeKind:
    """How one kind of recipe is told and made again.

    Attributes:
        words: the recipe's request as the command's verb, arguments and options, without model,
            device and precision, which all commands share.
        rerun: makes the run again and returns all its pictures by name.
        steps: denoising steps of the run, for a progress bar.
        shared: options of the model and its machine that the command has.
    """

    words: Callable[[Recipe], list[str]]
    rerun: Callable[[LoadedModel, Recipe, RerunInputs], Mapping[str, Image.Image]]
    steps: Callable[[Recipe], int]
    shared: tuple[str, ...] = ("model", "revision", "lora", "preset", "device", "dtype", "compile")


def kind_of(recipe: Recipe) -> RecipeKind:
    """Return the recipe's kind.

    Raises:
        ConfigError: this version does not know it.
    """
    try:
        return KINDS[recipe.kind]
    except KeyError:
        raise ConfigError(
            f"The recipe is of the kind {recipe.kind!r}; this version can make again: "
            f"{', '.join(KINDS)}."
        ) from None


def command_line(recipe: Recipe, *, model: str | None = None, loras: Sequence[str] = ()) -> str:
    """Return the command that makes the recipe's run again, quoted for a shell.

    Args:
        recipe: of any picture of the run.
        model: words for --model; None takes the recipe's name, which for a local model has to be
            replaced by its path.
        loras: words for --lora; none takes the recipe's names.

    Raises:
        ConfigError: the command line has no words for it, or they cannot be shown as they are.
    """
    stated, known = recipe.model, kind_of(recipe).shared
    verb, *words = kind_of(recipe).words(recipe)
    given = loras or [f"{_bare(one.name)}:{_number(one.scale)}" for one in stated.loras]
    options = [("lora", one) for one in given]
    options += [("device", recipe.device), ("dtype", recipe.dtype)]
    options += [("preset", stated.recipe)] if stated.recipe else []
    options += [("compile", stated.compiled)] if stated.compiled != "none" else []
    named = model or (stated.name if stated.kind == "hub" else _bare(stated.name))
    # Without the option for a commit the command takes model and commit from the picture.
    hub = stated.kind == "hub" and stated.revision is not None
    if (named != "puppets" or stated.kind != "embedded") and ("revision" in known or not hub):
        options[:0] = [("model", named), *([("revision", str(stated.revision))] if hub else [])]
    shared = [word for name, value in options if name in known for word in (f"--{name}", value)]
    end = words.index("--") if "--" in words else len(words)
    return shell_line(["masactrl", verb, *words[:end], *shared, *words[end:]])


def _number(value: float) -> str:
    """Return a number with all its digits, a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _bare(name: str) -> str:
    """Return the name without any folder, which a recipe may not choose."""
    return PurePath(name).name or "model"


def hub_id(recipe: Recipe) -> str | None:
    """Return the Hub id of the recipe's model, or an embedded model's name.

    None where the recipe names something local, which only its owner can point at, and where a
    folder of that name lies here: a recipe never chooses a path.

    Raises:
        ConfigError: the recipe's revision is no commit, but may be a way through folders.
    """
    stated = recipe.model
    if stated.kind == "embedded" and stated.name in EMBEDDED_FOLDERS:
        return stated.name
    if stated.kind == "hub" and not at_home(stated.name).exists():
        if stated.revision is not None and not _COMMIT.fullmatch(stated.revision):
            raise ConfigError(f"The recipe cannot be used: {stated.revision!r} is no commit.")
        return stated.name
    return None


def rerun_recipe(model: LoadedModel, recipe: Recipe, given: RerunInputs) -> Image.Image:
    """Make the recipe's run again and return the picture that it names.

    Raises:
        ConfigError: the request in it cannot be, or the run has no such picture.
    """
    pictures = kind_of(recipe).rerun(model, recipe, given)
    try:
        return pictures[recipe.picture]
    except KeyError:
        raise ConfigError(
            f"The recipe is of a picture {recipe.picture!r}; its run makes {', '.join(pictures)}."
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureDifference:
    """How near two pictures of one size are.

    Attributes:
        equal: to the bit.
        largest: difference of any pixel and channel, of 255 levels.
        changed: share of pixels that differ at all, 0 to 1.
        psnr: peak signal to noise in dB; infinite where they are equal.
    """

    equal: bool
    largest: int
    changed: float
    psnr: float

    def sentence(self) -> str:
        """Say it in words."""
        if self.equal:
            return "The picture is the same to the bit."
        return (
            f"The pictures differ: by at most {self.largest} of 255 levels, in "
            f"{self.changed:.1%} of the pixels, PSNR {self.psnr:.1f} dB."
        )


def compare(before: Image.Image, after: Image.Image) -> PictureDifference:
    """Say how near two pictures are.

    Raises:
        ConfigError: they have different sizes.
    """
    if before.size != after.size:
        raise ConfigError(
            f"The picture is {before.width}x{before.height} and was made again as "
            f"{after.width}x{after.height}: it was resized or cropped after it was made."
        )
    one, two = (np.asarray(as_rgb(each)).astype(np.int16) for each in (before, after))
    apart = np.abs(one - two)
    error = float(np.square(apart.astype(np.float64)).mean())
    return PictureDifference(
        equal=not apart.any(),
        largest=int(apart.max()),
        changed=float(apart.any(axis=2).mean()),
        psnr=10 * math.log10(255**2 / error) if error else math.inf,
    )


def _rerun_demo(
    model: LoadedModel, recipe: Recipe, given: RerunInputs
) -> Mapping[str, Image.Image]:
    results = [generate(model, one, on_step=given.on_step) for one in _demo_rows(recipe)]
    return {recipe.picture: demo_sheet(results)}


def demo_sheet(results: Sequence[GenerateResult]) -> Image.Image:
    """Return one sheet of several runs."""
    return contact_sheet([row for one in results for row in one.sheet_rows()], headers=HEADERS)


def _demo_rows(recipe: Recipe) -> list[GenerateRequest]:
    rows = recipe.request.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("The recipe cannot be used: it holds no rows of the demo.")
    return [request_of(row) for row in rows]


def _demo_steps(recipe: Recipe) -> int:
    return sum(one.steps or 1 for one in _demo_rows(recipe))


KINDS: Mapping[str, RecipeKind] = MappingProxyType(
    {
        "generate": RecipeKind(words=generate_words, rerun=rerun_generate, steps=generate_steps),
        "edit": RecipeKind(words=edit_words, rerun=rerun_edit, steps=edit_steps),
        "compare": RecipeKind(words=compare_words, rerun=rerun_compare, steps=compare_steps),
        "sweep": RecipeKind(words=sweep_words, rerun=rerun_sweep, steps=sweep_steps),
        "auto": RecipeKind(words=auto_words, rerun=rerun_auto, steps=auto_steps),
        "attention": RecipeKind(
            words=attention_words,
            rerun=rerun_attention,
            steps=attention_steps,
            shared=("model", "lora", "device"),
        ),
        "animate": RecipeKind(words=animate_words, rerun=rerun_animate, steps=animate_steps),
        "demo": RecipeKind(
            words=lambda _: ["demo"], rerun=_rerun_demo, steps=_demo_steps, shared=("device",)
        ),
    }
)
"""Every kind of recipe by name."""
