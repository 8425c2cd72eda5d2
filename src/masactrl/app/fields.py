"""What stands on every tab: each control, the request it belongs to, and its limits.

A tab is a tuple of fields. The page draws them, `masactrl.app.requests` turns their values into
the request that the command line would build, and a test moves each of them and looks whether the
request moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from masactrl.settings.shared import LARGEST_SIDE, Form, MethodName

if TYPE_CHECKING:
    from masactrl.models import ModelPreset

Widget = Literal["text", "lines", "whole", "number", "slider", "choice", "tick", "picture", "paint"]
"""How a field is drawn; `lines` is one entry a line, `whole` a number without a point."""

SUBJECT = "Subject: keep it apart from the background"
"""The fold of masks."""

LARGEST_SEED = 2**31 - 1
"""Of what the page draws by chance; a seed that is typed may be larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One control of a tab.

    Attributes:
        name: key of its value.
        label: what stands above it.
        info: what it does, with its range.
        widget: see `Widget`.
        value: what it shows at first.
        low, high, step: of numbers.
        choices: of a choice.
        fold: whether it is in a closed fold of a tab.
        group: name of that fold.
        many: whether several choices may be made.
    """

    name: str
    label: str
    info: str
    widget: Widget
    value: Any = None
    low: float | None = None
    high: float | None = None
    step: float = 1
    choices: tuple[str, ...] = ()
    fold: bool = True
    group: str = "Advanced"
    many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the loaded model decides about the controls.

    Attributes:
        preset: its settings.
        layers: how many self-attention layers it has.
    """

    preset: ModelPreset
    layers: int


def _source(example: str) -> Field:
    return Field(
        name="source_prompt",
        label="What the source shows",
        info="The picture that all others are to agree with.",
        widget="text",
        value=example,
        fold=False,
    )


def run_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of steps, guidance and control, which every tab has."""
    preset = limits.preset
    return (
        Field(
            name="steps",
            label="Steps",
            info="Denoising steps, 1 to 1000; fewer are quicker and rougher.",
            widget="whole",
            value=preset.steps,
            low=1,
            high=1000,
        ),
        Field(
            name="guidance_scale",
            label="Guidance",
            info="How strongly prompts count; 1 is off.",
            widget="slider",
            value=preset.guidance_scale,
            low=1,
            high=20,
            step=0.1,
        ),
    )


def control_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of MasaCtrl: S, L, form and strength."""
    preset = limits.preset
    return (
        Field(
            name="start_step",
            label="Start step S",
            info="First controlled step, 0 (the noisiest) to steps - 1; moves along when steps "
            "change. Earlier keeps more, layout included.",
            widget="whole",
            value=preset.start_step,
            low=0,
        ),
        Field(
            name="start_layer",
            label="Start layer L",
            info=f"First controlled layer of {limits.layers}. Lower keeps more of the source.",
            widget="slider",
            value=preset.start_layer,
            low=0,
            high=limits.layers - 1,
        ),
        Field(
            name="form",
            label="What targets read",
            info="replace: the source only, the paper's; union: also themselves, weaker.",
            widget="choice",
            value="replace",
            choices=get_args(Form),
        ),
        Field(
            name="strength",
            label="Strength",
            info="Of the control, 0 (none) to 1 (full).",
            widget="slider",
            value=1.0,
            low=0,
            high=1,
            step=0.05,
        ),
    )


def _picture_fields(limits: Limits) -> tuple[Field, ...]:
    preset = limits.preset
    return (
        Field(
            name="negative_prompt",
            label="What no picture should show",
            info="Guidance leads away from it.",
            widget="text",
            value="",
        ),
        Field(
            name="width",
            label="Width",
            info="Pixels, a multiple of 8.",
            widget="whole",
            value=preset.width,
            low=8,
            high=LARGEST_SIDE,
            step=8,
        ),
        Field(
            name="height",
            label="Height",
            info="Pixels, a multiple of 8.",
            widget="whole",
            value=preset.height,
            low=8,
            high=LARGEST_SIDE,
            step=8,
        ),
    )


_SEED = Field(
    name="seed",
    label="Seed",
    info="Of the start noise that all pictures share, 0 and more.",
    widget="whole",
    value=7,
    low=0,
    fold=False,
)


def set_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Consistent set": one source, many prompts."""
    return (
        _source("a cat standing in the snow, facing left"),
        Field(
            name="target_prompts",
            label="What the targets show, one a line",
            info="Each is drawn with and without control.",
            widget="lines",
            value="a cat running in the snow, facing left\na cat sitting in the snow, facing left",
            fold=False,
        ),
        _SEED,
        *run_fields(limits),
        *control_fields(limits),
        *_picture_fields(limits),
        method_field(),
    )


def method_field(also: str = "") -> Field:
    """Return the field of the method; `also` is said after the rest."""
    return Field(
        name="method",
        label="Method",
        info="Who controls the targets. S and L take no part with another than masactrl; form "
        f"and strength have to be left as they are. {also}".strip(),
        widget="choice",
        value="masactrl",
        choices=get_args(MethodName),
    )


def grid_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Grid": one target for every S and L."""
    preset = limits.preset
    early, late = max(0, preset.start_step // 2), min(preset.steps - 1, 3 * preset.start_step + 2)
    low, high = max(0, preset.start_layer - 4), min(limits.layers - 1, preset.start_layer + 3)
    control = [one for one in control_fields(limits) if not one.name.startswith("start_")]
    return (
        _source("a cat standing in the snow, facing left"),
        Field(
            name="target_prompt",
            label="What the target shows",
            info="Drawn once for every S and L.",
            widget="text",
            value="a cat running in the snow, facing left",
            fold=False,
        ),
        Field(
            name="start_steps",
            label="Start steps S",
            info="Numbers between commas, 0 is the noisiest; a row each.",
            widget="text",
            value=", ".join(map(str, sorted({early, preset.start_step, late}))),
            fold=False,
        ),
        Field(
            name="start_layers",
            label="Start layers L",
            info=f"Numbers between commas, 0 to {limits.layers - 1}; a column each.",
            widget="text",
            value=", ".join(map(str, sorted({low, preset.start_layer, high}))),
            fold=False,
        ),
        _SEED,
        *run_fields(limits),
        *control,
        *_picture_fields(limits),
    )


def compare_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Compare": one target by several methods."""
    return (
        _source("a cat standing in the snow, facing left"),
        Field(
            name="target_prompt",
            label="What the target shows",
            info="Drawn by every method from the same noise.",
            widget="text",
            value="a cat running in the snow, facing left",
            fold=False,
        ),
        Field(
            name="methods",
            label="Methods",
            info="The picture without control is always there.",
            widget="choice",
            value=["masactrl", "prompt-to-prompt", "sdedit"],
            choices=tuple(one for one in get_args(MethodName) if one != "fixed-seed"),
            many=True,
            fold=False,
        ),
        _SEED,
        *run_fields(limits),
        *control_fields(limits)[:2],
        *_picture_fields(limits),
    )
