"""What may be asked of a run, checked at the door; further inside nothing is optional."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from masactrl.errors import ConfigError, PromptError
from masactrl.runs.layout import check_layouts
from masactrl.settings.checks import plain, settle
from masactrl.settings.declare import check
from masactrl.settings.prompt_weights import parse, without_weights
from masactrl.settings.shared import (
    FormSetting,
    GuidanceBegin,
    GuidanceEnd,
    GuidanceScale,
    LayersSetting,
    MethodOptions,
    MethodSetting,
    NegativePrompt,
    PositionsSetting,
    RunSettings,
    Seed,
    Side,
    SourcePrompt,
    StartAt,
    StartLayer,
    StartStep,
    Strength,
    TargetPrompts,
    check_interval,
    parse_layers,
)

if TYPE_CHECKING:
    from masactrl.models.presets import ModelPreset
    from masactrl.runs.layout import Layout

    Layouts = tuple[Layout, ...]
else:
    Layouts = tuple[Any, ...]  # a recipe tells of them in another way, and is checked by this class


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest(RunSettings):
    """One source picture and its targets; what is None is left to the model's preset.

    Attributes beside those of `RunSettings`:
        source_prompt: what the source shows.
        target_prompts: what each target shows, at least one.
        seed: 0 to 2**63 - 1, of the start noise that source and targets share.
        guidance_scale: weight of classifier-free guidance, at least 1; 1 switches it off.
        guidance_begin, guidance_end: part of the run in which guidance acts, as shares of it.
        negative_prompt: what guidance leads away from, in all pictures.
        height: pixels, a multiple of 8 up to 4096.
        width: pixels, a multiple of 8 up to 4096.
        start_step: S, the first controlled step, 0 (the noisiest) to steps - 1. None is the
            preset's, as the same part of the run when `steps` is another number than the preset's.
        start_at: S as a share of the run, instead of start_step; a resolved request has start_step.
        start_layer: L, the first controlled self-attention layer, 0 to the model's last, counted
            in execution order.
        layers: only these layers of those from L on, such as "0,7-10,18"; without an L of one's own
            L is the first of them.
        form: see `Form`.
        strength: 0 (targets are left alone) to 1.
        positions: where the keys that are read stand, see `PositionPolicy`.
        method: who controls the targets, see `MethodName`; `start_step`, `start_layer`, `form` and
            `strength` are MasaCtrl's and must be left alone with another.
        method_options: fields of another method by name, for example {"features": 0.6}; kept as
            sorted pairs.
        layouts: where things go in the targets, see `masactrl.runs.layout.Layout`.

    Raises:
        PromptError: a prompt is empty, a weight in it is none, or there is no target.
        ConfigError: another value is out of its range; says the range.
    """

    source_prompt: SourcePrompt
    target_prompts: TargetPrompts
    seed: Seed = 0
    guidance_scale: GuidanceScale = None
    guidance_begin: GuidanceBegin = 0.0
    guidance_end: GuidanceEnd = 1.0
    negative_prompt: NegativePrompt = ""
    height: Side = None
    width: Side = None
    start_step: StartStep = None
    start_at: StartAt = None
    start_layer: StartLayer = None
    layers: LayersSetting = ""
    form: FormSetting = "replace"
    strength: Strength = 1.0
    positions: PositionsSetting = "same"
    method: MethodSetting = "masactrl"
    method_options: MethodOptions = ()
    layouts: Layouts = ()

    def __post_init__(self) -> None:
        settle(self)
        given: object = self.target_prompts
        if isinstance(given, str):  # would be taken for one prompt per letter
            raise PromptError("target_prompts is a tuple of prompts, not one string.")
        object.__setattr__(self, "target_prompts", tuple(self.target_prompts))
        _check_prompts(self.source_prompt, self.target_prompts)
        parse(self.negative_prompt)  # refuses what is no weight
        check(self)
        check_interval(self.guidance_begin, self.guidance_end, self.guidance_scale)
        parse_layers(self.layers)  # refuses what is none
        object.__setattr__(self, "method_options", sorted_pairs(self.method_options))
        check_method(self)
        object.__setattr__(self, "layouts", tuple(self.layouts))
        check_layouts(self)

    def resolve(self, preset: ModelPreset) -> ResolvedRequest:
        """Return the request with nothing left open."""
        preset.check_guidance(self.guidance_scale)
        return ResolvedRequest(**(values_of(self) | left_open(self, preset, self.steps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRequest(GenerateRequest):
    """A `GenerateRequest` after the model's preset filled what was left open."""

    steps: int
    guidance_scale: float
    height: int
    width: int
    start_step: int
    start_layer: int
    method_options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Nothing: it was checked as it was asked; S and L are here with every method."""

    def recipe(self) -> dict[str, Any]:
        """Return the request as values that JSON knows; of layouts the kind, not the pixels."""
        said = asdict(replace(self, layouts=()))
        del said["layouts"]
        drawn = [layout.described() for layout in self.layouts]
        return said | ({"layouts": drawn} if drawn else {})


def values_of(values: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, as they are."""
    return {one.name: getattr(values, one.name) for one in fields(values)}


def left_open(request: Any, preset: ModelPreset, steps: int | None) -> dict[str, Any]:
    """Return what a request leaves to the model's preset, by name, and the steps of the run."""
    steps = preset.steps if steps is None else steps
    usual = values_of(preset) | {"start_step": preset.start_step_of(steps)}
    if (layers := parse_layers(request.layers)) is not None:
        usual["start_layer"] = layers[0]
    asked = values_of(request)
    found = {name: usual[name] for name, one in asked.items() if one is None and name in usual}
    if request.start_at is not None:
        # The small slack keeps 0.08 * 50 at 4 whatever the last binary digit.
        first = math.ceil(request.start_at * steps - 1e-9)
        found |= {"start_step": min(first, steps - 1), "start_at": None}
    return found | {"steps": steps}


class MethodAsked(Protocol):
    """What requests have in common that name a method."""

    @property
    def method(self) -> str:
        """A name of `MethodName`."""
        ...

    @property
    def start_step(self) -> int | None:
        """S."""
        ...

    @property
    def start_at(self) -> float | None:
        """S as a share of the run."""
        ...

    @property
    def method_options(self) -> Mapping[str, Any] | tuple[tuple[str, Any], ...]:
        """Fields of that method."""
        ...


MASACTRLS: Mapping[str, Any] = MappingProxyType(
    {
        "start_step": None,
        "start_at": None,
        "start_layer": None,
        "layers": "",
        "form": "replace",
        "strength": 1.0,
        "positions": "same",
    }
)
"""What no other method reads, with what is usual."""


def check_method(asked: MethodAsked, also: Mapping[str, Any] | None = None) -> None:
    """Refuse a method that is unknown, and values that another method than the asked one has.

    Args:
        asked: a request.
        also: further fields of the request that only masactrl reads, with their usual values.

    Raises:
        ConfigError: says which value, and what to do.
    """
    if asked.start_step is not None and asked.start_at is not None:
        raise ConfigError(
            f"start_step={asked.start_step} and start_at={asked.start_at:g} both say where control "
            "begins; give one."
        )
    if asked.method == "masactrl":
        if asked.method_options:
            raise ConfigError(
                "method_options are those of other methods; MasaCtrl has start_step, "
                "start_layer, form and strength."
            )
        return
    for name, usual in {**MASACTRLS, **(also or {})}.items():
        value = getattr(asked, name)
        if value is not usual and value != usual:
            raise ConfigError(
                f"{name} belongs to the method masactrl, and method={asked.method!r} was given; "
                "leave it out, or give method_options."
            )


def sorted_pairs(
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...],
) -> tuple[tuple[str, Any], ...]:
    """Return options as pairs sorted by name, their numbers Python's own."""
    return tuple((name, plain(value)) for name, value in sorted(dict(options).items()))


def _check_prompts(source: str, targets: tuple[str, ...]) -> None:
    if not without_weights(source).strip():
        raise PromptError("The source prompt is empty; say what the source picture shows.")
    if not targets:
        raise PromptError("There is no target prompt; give at least one.")
    for number, target in enumerate(targets, start=1):
        if not without_weights(target).strip():
            raise PromptError(f"Target prompt {number} is empty; say what that picture shows.")
