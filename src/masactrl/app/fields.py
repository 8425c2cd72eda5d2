"""What stands on every tab: each control, the request it belongs to, and its limits.

A tab is a tuple of fields. The page draws them, `masactrl.app.requests` turns their values into
the request that the command line would build, and a test moves each of them and looks whether the
request moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.request import GenerateRequest
from masactrl.settings.declare import settings_of
from masactrl.settings.shared import MethodName, RunSettings

if TYPE_CHECKING:
    from masactrl.diffusion import NoiseKind
    from masactrl.models import ModelPreset
    from masactrl.settings.declare import Declared

Widget = Literal[
    "text", "lines", "whole", "number", "slider", "choice", "tick", "picture", "files", "paint"
]
"""How a field is drawn; `lines` is one entry a line, `whole` a number without a point."""

SUBJECT = "Subject: keep it apart from the background"
"""The fold of masks."""

_FEW = 8  # steps of a model that needs no quicker run

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
        networks: kind of layout -> the ControlNet or T2I-Adapter that reads it; None is the
            embedded model's own.
        kind: of its noise levels, which decides about methods and inversions.
    """

    preset: ModelPreset
    layers: int
    networks: Mapping[str, str | None] = field(default_factory=dict)
    kind: NoiseKind = "diffusion"

    @property
    def preview_steps(self) -> int | None:
        """Steps of a quick run, two fifths of the model's; None where the model takes few anyway.

        The embedded model's pictures of 8 steps show what those of 20 show, with softer edges.
        """
        return None if self.preset.steps <= _FEW else self.preset.steps * 2 // 5


def offered(fields: Sequence[Field], limits: Limits) -> tuple[Field, ...]:
    """Return the fields without the methods and inversions that the model's kind has not."""
    from masactrl.inversion import INVERSIONS, inversions_of
    from masactrl.methods import METHODS, methods_of

    without = {*METHODS, *INVERSIONS} - {*methods_of(limits.kind), *inversions_of(limits.kind)}

    def left(one: Field) -> Field:
        choices = tuple(choice for choice in one.choices if choice not in without)
        value = [each for each in one.value if each in choices] if one.many else one.value
        return replace(one, choices=choices, value=value)

    return tuple(left(one) if one.choices else one for one in fields)


def declared_field(owner: type, name: str, limits: Limits | None = None, **own: Any) -> Field:
    """Return the field of a request's setting, drawn as its declaration says.

    Args:
        owner: the request.
        name: of the setting.
        limits: its preset says what is shown at first, where it has the setting.
        own: of the field, in place of what the declaration says.
    """
    declared = settings_of(owner)[name]
    setting, preset = declared.setting, None if limits is None else limits.preset
    usual = None if declared.default is MISSING else declared.default
    said: dict[str, Any] = {
        "label": setting.label or name.replace("_", " ").capitalize(),
        "info": setting.help,
        "value": getattr(preset, name, usual),
        "choices": declared.choices,
        "widget": _widget(declared),
        "low": setting.low,
        "high": setting.high,
        "step": setting.multiple,
    }
    if setting.slide is not None:
        said |= dict(zip(("low", "high", "step"), setting.slide, strict=True))
    return Field(name=name, **{**said, **own})


def _widget(declared: Declared) -> Widget:
    if declared.choices:
        return "choice"
    if declared.setting.slide is not None:
        return "slider"
    if get_origin(declared.kind) is tuple:
        return "lines"
    named: dict[Any, Widget] = {bool: "tick", int: "whole", float: "number"}
    return named.get(declared.kind, "text")


def source_field(example: str) -> Field:
    """Return the field of the source's prompt."""
    return declared_field(
        GenerateRequest,
        "source_prompt",
        info="The picture that all others are to agree with.",
        value=example,
        fold=False,
    )


def run_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of what every run has, and of guidance."""
    return (
        *(declared_field(RunSettings, name, limits) for name in settings_of(RunSettings)),
        declared_field(
            GenerateRequest,
            "guidance_scale",
            limits,
            info="How strongly prompts count; 1 is off.",
        ),
    )


def control_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of MasaCtrl: S, L, layers, form, strength and positions."""
    return (
        declared_field(
            GenerateRequest,
            "start_step",
            limits,
            info="First controlled step, 0 (the noisiest) to steps - 1; moves along when steps "
            "change. Earlier keeps more, layout included.",
        ),
        declared_field(
            GenerateRequest,
            "start_layer",
            limits,
            info=f"First controlled layer of {limits.layers}. Lower keeps more of the source.",
            widget="slider",
            high=limits.layers - 1,
        ),
        declared_field(GenerateRequest, "layers"),
        declared_field(GenerateRequest, "form"),
        declared_field(GenerateRequest, "strength"),
        declared_field(GenerateRequest, "positions"),
    )


def picture_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the negative prompt and the size."""
    return (
        declared_field(GenerateRequest, "negative_prompt", info="Guidance leads away from it."),
        declared_field(GenerateRequest, "width", limits),
        declared_field(GenerateRequest, "height", limits),
    )


def inversion_field(info: str = "") -> Field:
    """Return the field of the inversion of a picture; `info` in place of the setting's own."""
    own: dict[str, Any] = {"info": info} if info else {}
    return replace(
        declared_field(InversionRequest, "method", label="Inversion", **own), name="inversion"
    )


SEED = declared_field(GenerateRequest, "seed", value=7, high=None, fold=False)


def set_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Consistent set": one source, many prompts."""
    return (
        source_field("a cat standing in the snow, facing left"),
        declared_field(
            GenerateRequest,
            "target_prompts",
            label="What the targets show, one a line",
            info="Each is drawn with and without control.",
            value="a cat running in the snow, facing left\na cat sitting in the snow, facing left",
            fold=False,
        ),
        SEED,
        *run_fields(limits),
        *control_fields(limits),
        *picture_fields(limits),
        method_field(),
    )


def method_field(also: str = "") -> Field:
    """Return the field of the method; `also` is said after the rest."""
    return declared_field(
        GenerateRequest,
        "method",
        info="Who controls the targets. S and L take no part with another than masactrl; form "
        f"and strength have to be left as they are. {also}".strip(),
    )


def grid_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Grid": one target for every S and L."""
    preset = limits.preset
    early, late = max(0, preset.start_step // 2), min(preset.steps - 1, 3 * preset.start_step + 2)
    low, high = max(0, preset.start_layer - 4), min(limits.layers - 1, preset.start_layer + 3)
    control = [one for one in control_fields(limits) if not one.name.startswith("start_")]
    return (
        source_field("a cat standing in the snow, facing left"),
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
        SEED,
        *run_fields(limits),
        *control,
        *picture_fields(limits),
    )


def compare_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Compare": one target by several methods."""
    return (
        source_field("a cat standing in the snow, facing left"),
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
        SEED,
        *run_fields(limits),
        *control_fields(limits)[:2],
        *picture_fields(limits),
    )
