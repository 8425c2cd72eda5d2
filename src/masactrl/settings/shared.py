"""Settings that several requests share, declared once; a request composes them as its fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

from masactrl.errors import ConfigError
from masactrl.settings.declare import OF_MODEL, Setting

CONTROL, INVERSION, MASKS = "Control", "Inversion", "Masks"
"""Headings of --help, beside the command's own options."""

LARGEST_SIDE: Final = 4096
"""Pixels; far beyond what any model of today can make, and short of what no memory holds."""

HIGHEST_SEED: Final = 2**63 - 1

Form = Literal["replace", "union"]
"""A target reads its source only (replace, the paper's), or its source and itself (union)."""

PositionPolicy = Literal["same", "none", "damped", "matched"]
"""Where the keys that a target reads stand, in networks with rotary embeddings (FLUX)."""

MethodName = Literal[
    "masactrl",
    "fixed-seed",
    "sdedit",
    "prompt-to-prompt",
    "plug-and-play",
    "style-aligned",
    "unified",
    "blended-latent",
    "imagic",
    "flowedit",
    "consistedit",
    "rf-edit",
]
"""The names in `masactrl.methods.METHODS`, known without importing what they are made of."""

FROM_SOURCE: Final = ("sdedit", "blended-latent", "imagic", "flowedit")
"""Methods whose targets do not share their source's noise: they draw noise of their own, and read
nothing of the source while they are made."""

Fit = Literal["auto", "keep"]
"""What happens to a picture that is not of the model's size; see `masactrl.pictures.input`."""

InversionName = Literal[
    "direct",
    "one-pass",
    "ddim",
    "fixed-point",
    "negative-prompt",
    "null-text",
    "edit-friendly",
    "virtual",
    "euler",
    "rf-solver",
    "fireflow",
    "uni-inv",
]
"""The names in `masactrl.inversion.INVERSIONS`, likewise."""

Options = Mapping[str, Any] | tuple[tuple[str, Any], ...]
"""Fields of a method by name; kept as sorted pairs."""


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options written NAME=VALUE; values are JSON, or words where they are none.

    Raises:
        ConfigError: there is no equals sign, or one name twice.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise ConfigError(f"{word!r} is no option; write NAME=VALUE, like features=0.6.")
        if name in options:
            raise ConfigError(f"{name} is given twice; give it once.")
        try:
            options[name] = _frozen(json.loads(value))
        except ValueError:
            options[name] = value
    return options


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def json_word(value: Any) -> str:
    """Return a value of an option: itself where it is a word that is read back so, else as JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)  # the word "1" is no number


def _pairs(options: Options) -> tuple[str, ...]:
    return tuple(f"{name}={json_word(value)}" for name, value in dict(options).items())


# What the pictures show.

SourcePrompt = Annotated[
    str,
    Setting(
        help="What the source picture shows.",
        label="What the source shows",
        flag="source",
        argument=True,
        metavar="SOURCE",
    ),
]
TargetPrompts = Annotated[
    tuple[str, ...],
    Setting(help="What a target shows; repeat for more targets.", flag="to", metavar="PROMPT"),
]
NegativePrompt = Annotated[
    str,
    Setting(
        help="What no picture should show.",
        label="What no picture should show",
        flag="negative",
        metavar="PROMPT",
        usual="nothing",
    ),
]
Seed = Annotated[
    int,
    Setting(
        help="Of the start noise that all pictures share; 0 to 2**63 - 1.",
        low=0,
        high=HIGHEST_SEED,
        usual="0",
        always=True,
    ),
]
Steps = Annotated[
    int | None,
    Setting(
        help="Denoising steps, 1 to 1000; fewer are quicker and rougher.",
        low=1,
        high=1000,
        usual=OF_MODEL,
    ),
]
ClipSkip = Annotated[
    int,
    Setting(
        help="Last layers of the text encoder that are left out, 0 to 4; web UIs count one more. "
        "Stable Diffusion 1.x and 2.x.",
        label="CLIP skip",
        low=0,
        high=4,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What every run has, from words or from a picture; the requests of both build on it.

    A setting that stands here is in every command, tab, recipe and table.

    Attributes:
        steps: denoising steps, 1 to 1000.
        clip_skip: last layers of the text encoder that are left out, 0 to 4.
    """

    steps: Steps = None
    clip_skip: ClipSkip = 0


GuidanceScale = Annotated[
    float | None,
    Setting(
        help="Guidance scale of the prompts, 1 and more; 1 switches guidance off.",
        label="Guidance",
        flag="cfg",
        low=1,
        accepted="1 (no guidance) and more",
        slide=(1, 20, 0.1),
        usual=OF_MODEL,
    ),
]
GuidanceBegin = Annotated[
    float,
    Setting(
        help="Share of the run at which guidance begins, 0 (the noisiest) to 1; before it every "
        "picture takes one row a step and not two.",
        label="Guidance begins",
        flag="cfg-begin",
        low=0,
        high=1,
        slide=(0, 1, 0.05),
    ),
]
GuidanceEnd = Annotated[
    float,
    Setting(
        help="Share of the run at which guidance ends, 0 to 1; from there on one row.",
        label="Guidance ends",
        flag="cfg-end",
        low=0,
        high=1,
        slide=(0, 1, 0.05),
    ),
]


def check_interval(begin: float, end: float, scale: float | None) -> None:
    """Refuse a part of a run that is none, or that has no guidance to begin or end; ConfigError."""
    if (begin, end) == (0, 1):
        return
    if begin >= end:
        raise ConfigError(
            f"guidance_begin={begin:g} and guidance_end={end:g} leave no step to guidance; "
            "accepted is 0 <= begin < end <= 1, or guidance_scale=1 for none."
        )
    if scale == 1:
        raise ConfigError(
            "guidance_begin and guidance_end say where guidance acts, and guidance_scale=1 "
            "switches it off; leave them out."
        )


Side = Annotated[
    int | None,
    Setting(
        help=f"Pixels, a multiple of 8 up to {LARGEST_SIDE}.",
        flag="",
        low=8,
        high=LARGEST_SIDE,
        multiple=8,
        usual=OF_MODEL,
    ),
]

# Who controls the targets, and where.

StartStep = Annotated[
    int | None,
    Setting(
        label="Start step S",
        help="S, the first controlled step: 0 (noisiest) to steps - 1. Earlier keeps more of the "
        "source, layout included.",
        low=0,
        usual=OF_MODEL,
        panel=CONTROL,
    ),
]
StartAt = Annotated[
    float | None,
    Setting(
        label="Start at",
        help="S as a share of the run, 0 to 1, in place of --start-step: 0.08 is step 4 of 50 "
        "and 1 of 4.",
        low=0,
        high=1,
        usual="--start-step",
        panel=CONTROL,
    ),
]
StartLayer = Annotated[
    int | None,
    Setting(
        label="Start layer L",
        help="L, the first controlled self-attention layer: 0 to 15 for Stable Diffusion and the "
        "embedded model, 0 to 69 for SDXL, 0 to 23 or 37 for SD3, 0 to 56 for FLUX. Lower "
        "keeps more of the source.",
        low=0,
        usual=OF_MODEL,
        panel=CONTROL,
    ),
]
LayersSetting = Annotated[
    str,
    Setting(
        help="Only these layers of those from L on, such as 0,7-10,18; L is the first of them.",
        usual="all from L on",
        metavar="NUMBERS",
        panel=CONTROL,
    ),
]
PositionsSetting = Annotated[
    PositionPolicy,
    Setting(
        help="FLUX: where keys that are read stand: at their own places (same), at the origin "
        "(none), at their own with fast turns damped (damped), or where the target's token most "
        "like them stands (matched).",
        label="Where the source's keys stand",
        panel=CONTROL,
    ),
]
FormSetting = Annotated[
    Form,
    Setting(
        help="Targets read the source only (replace), or also themselves (union).",
        label="What targets read",
        panel=CONTROL,
    ),
]


def parse_layers(text: str) -> tuple[int, ...] | None:
    """The layers that words like 0,7-10,18 name, in order; None of an empty text.

    Raises:
        ConfigError: they are none; says how they are written.
    """
    if not text.strip():
        return None
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or int(last) < int(first):
            raise ConfigError(
                f"layers={text!r} was given; accepted are numbers and spans of numbers, such as "
                "0,7-10,18."
            )
        found.update(range(int(first), int(last) + 1))
    return tuple(sorted(found))


Strength = Annotated[
    float,
    Setting(
        help="Of the control, 0 (none) to 1 (full).",
        low=0,
        high=1,
        slide=(0, 1, 0.05),
        panel=CONTROL,
    ),
]
MethodSetting = Annotated[
    str,
    Setting(
        help=f"Who controls the targets: {', '.join(get_args(MethodName))}. S, L, --form and "
        "--strength are masactrl's.",
        choices=get_args(MethodName),
        metavar="METHOD",
        panel=CONTROL,
    ),
]
MethodOptions = Annotated[
    Options,
    Setting(
        help="An option of another method than masactrl, such as features=0.6; repeat for more.",
        flag="method-option",
        metavar="NAME=VALUE",
        usual="none",
        panel=CONTROL,
        read=parse_options,
        write=_pairs,
    ),
]
