"""What may be asked of an edit, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from masactrl.errors import ConfigError, MaskError, PromptError
from masactrl.runs.inversion_request import draws_noise
from masactrl.runs.layout import Layout, check_layouts
from masactrl.runs.recipe import InputStated
from masactrl.runs.request import check_method, left_open, sorted_pairs, values_of
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check
from masactrl.settings.prompt_weights import parse, without_weights
from masactrl.settings.shared import (
    CONTROL,
    FROM_SOURCE,
    HIGHEST_SEED,
    MASKS,
    FormSetting,
    GuidanceBegin,
    GuidanceEnd,
    GuidanceScale,
    LayersSetting,
    MethodOptions,
    MethodSetting,
    PositionsSetting,
    StartAt,
    StartLayer,
    StartStep,
    Strength,
    TargetPrompts,
    check_interval,
    parse_layers,
)

if TYPE_CHECKING:
    from masactrl.attention.masks import MaskLike, OnEmpty, Words
    from masactrl.methods import Method
    from masactrl.models import ModelPreset

__all__ = ["EditMasks", "EditRequest", "Features", "Keep", "Mode", "ResolvedEdit", "split_seed"]

Mode = Literal["ahead", "cached", "joint"]
"""Source features recorded once and read by every edit (cached), already while the picture is
inverted where that can be (ahead), or source and targets in one batch (joint)."""

Keep = Literal["device", "memory", "disk"]
"""Where recorded source features are kept: beside the model, in the host's memory, in files."""

Features = Literal["cached", "joint", "none"]
"""How targets come by the source's features: as in `Mode`, or they read none."""

_ALONE = ("fixed-seed", *FROM_SOURCE)
"""Methods whose targets read nothing of the source while they are made."""

ALSO_MASACTRLS = MappingProxyType(
    {"masks": None, "keep_background": False, "keep": "memory", "half": True}
)
"""What beside S, L, form and strength no other method reads, with what is usual."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditMasks:
    """Which part of the source and of the targets is the subject.

    Either pictures (height, width) of the input's proportions, white for the subject, or words of
    the prompts, whose attention shows the subject while the picture is made.

    Attributes:
        source: a mask, or words of the source prompt. None: for words, the first tokens of a null
            prompt, which act as its object; masks are needed.
        targets: one for all targets, or one per target. None: the source's mask for all, which
            then is the region where things may change.
        threshold: of the attention of words, above 0 and up to 1.
        on_empty: whether a mask picture that marks everything or nothing is an error ("raise"), or
            a warning.
        stated: name and hash of the files of masks that are pictures, the source's first, for
            recipes; empty where they were no files.

    Raises:
        MaskError: pictures and words are mixed, there is neither, or `stated` is not of the masks.
    """

    source: MaskLike | Words | None = None
    targets: MaskLike | Words | tuple[MaskLike | Words, ...] | None = None
    threshold: float = 0.1
    on_empty: OnEmpty = "raise"
    stated: tuple[InputStated, ...] = ()

    def __post_init__(self) -> None:
        settle(self, MaskError)
        given = [one for one in (self.source, *self._each()) if one is not None]
        if not given:
            raise MaskError("No mask was given: give pictures, or words that name the subject.")
        if len({_is_words(one) for one in given}) > 1:
            raise MaskError("Masks are pictures or words, for source and targets alike.")
        if not self.by_words and self.source is None:
            raise MaskError("The source has no mask; one picture for it is needed, at least.")
        if self.by_words and self.targets is None:
            raise MaskError("Name the subject of the targets by words of their prompts.")
        if self.stated and (self.by_words or len(self.stated) != len(given)):
            raise MaskError(
                f"{len(self.stated)} files were stated for {len(given)} masks; state one each, "
                "of masks that are pictures."
            )

    @property
    def by_words(self) -> bool:
        """Whether words, not pictures, say what the subject is."""
        return any(_is_words(one) for one in (self.source, *self._each()) if one is not None)

    def of_targets(self, count: int) -> tuple[Any, ...]:
        """Return one mask or one entry of words per target.

        Raises:
            MaskError: there are more or fewer than targets.
        """
        if self.targets is None:
            return (self.source,) * count
        if not isinstance(self.targets, tuple) or len(self.targets) == 1:
            return self._each() * count
        if len(self.targets) != count:
            raise MaskError(
                f"{len(self.targets)} target masks were given for {count} targets; give one for "
                "all or one each."
            )
        return self.targets

    def _each(self) -> tuple[Any, ...]:
        if self.targets is None:
            return ()
        return self.targets if isinstance(self.targets, tuple) else (self.targets,)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """What to make of an inverted picture; what is None is left to the model's preset.

    The number of steps is that of the inversion, but for `target_steps`.

    Attributes:
        target_prompts: what each target shows, at least one.
        guidance_scale: of the targets, at least 1; 1 switches guidance off.
        guidance_begin, guidance_end: part of the run in which guidance acts, as shares of it.
        negative_prompt: what guidance leads the targets away from. None is what the inversion has
            for the source: nothing, its prompt (negative-prompt) or embeddings (null-text).
        start_step: S, the first controlled step, 0 (the noisiest) to steps - 1.
        start_at: S as a share of the run, instead of start_step; a resolved request has start_step.
        start_layer: L, the first controlled self-attention layer in execution order.
        layers: only these layers of those from L on, such as "0,7-10,18".
        form: targets read the source (replace), or the source and themselves (union).
        strength: of the control, 0 (targets are left alone) to 1.
        positions: where the keys that are read stand, see `settings.shared.PositionPolicy`.
        masks: keep subject and background apart (Eq. 6 to 8 of the paper); None is one for all. Of
            blended-latent: pictures, in whose union the target may differ; None finds one.
        keep_background: put the source back outside the union of source and target mask.
        compare: make every target without control, too.
        mode: see `Mode`; cached and joint give the same pictures. Direct inversion asks the network
            about the neighbour of each level, and ahead takes the features there: pictures differ
            by 37 to 40 dB from cached ones, and a first edit takes a quarter less time. Results
            say cached where nothing was approximated. Only masactrl reads recorded features: the
            source of another method runs with every edit, whatever is said here.
        keep: where recorded features are kept, in cached mode.
        half: whether they are kept in half precision.
        method: who controls the targets, see `settings.shared.MethodName`; S, L, form, strength,
            masks and how features are kept are masactrl's and must be left alone with another.
        method_options: fields of another method by name, for example {"features": 0.6}; kept as
            sorted pairs.
        fresh_noise: share of the targets' start noise that is drawn anew, 0 (the paper's: all is
            the inversion's) to 1; see `masactrl.diffusion.noise.freshened`. Not for methods of
            `FROM_SOURCE`, nor for inversions that draw their noise.
        seed: of that noise, and of the noise that a method of `FROM_SOURCE` draws, 0 to 2**63 - 1;
            None is 0.
        target_steps: denoising steps of targets by a method of `FROM_SOURCE`, which read nothing
            of the inversion, 1 to 1000, at the model's own timesteps; None is the inversion's
            steps. Targets of all other methods share the steps of their source.
        layouts: where things go in the targets, see `masactrl.runs.layout.Layout`; of the picture's
            proportions.

    Raises:
        PromptError: a prompt is empty, a weight in it is none, or there is no target.
        ConfigError: another value is out of its range; says the range.
    """

    target_prompts: TargetPrompts
    guidance_scale: GuidanceScale = None
    guidance_begin: GuidanceBegin = 0.0
    guidance_end: GuidanceEnd = 1.0
    negative_prompt: Annotated[
        str | None,
        Setting(
            help="What no target should show.",
            label="What no target should show",
            flag="negative",
            metavar="PROMPT",
            usual="the inversion's",
        ),
    ] = None
    start_step: StartStep = None
    start_at: StartAt = None
    start_layer: StartLayer = None
    layers: LayersSetting = ""
    form: FormSetting = "replace"
    strength: Strength = 1.0
    positions: PositionsSetting = "same"
    masks: EditMasks | None = None
    keep_background: Annotated[
        bool,
        Setting(
            help="Put the picture back outside both masks.",
            label="Keep the background as it is",
            panel=MASKS,
        ),
    ] = False
    compare: Annotated[
        bool,
        Setting(help="Make every target without control, too.", switch="compare/no-compare"),
    ] = True
    mode: Annotated[
        Mode,
        Setting(
            help="Record the source while inverting, of direct inversion at the neighbouring noise "
            "level (ahead), in an exact pass of its own (cached), or run it with each edit "
            "(joint).",
            panel=CONTROL,
        ),
    ] = "ahead"
    keep: Annotated[
        Keep,
        Setting(
            help="Where a recorded source is kept: beside the model (device), in the host's "
            "memory, in files (disk).",
            panel=CONTROL,
        ),
    ] = "memory"
    half: bool = True
    method: MethodSetting = "masactrl"
    method_options: MethodOptions = ()
    fresh_noise: Annotated[
        float,
        Setting(
            help="Share of the targets' start noise that is drawn anew, 0 to 1. The inversion's "
            "noise holds on to the picture's layout; 0.5 frees the pose and keeps the subject.",
            label="New noise",
            low=0,
            high=1,
            panel=CONTROL,
        ),
    ] = 0.0
    seed: Annotated[
        int | None,
        Setting(help="Of the noise that an edit draws.", flag="", low=0, high=HIGHEST_SEED),
    ] = None
    target_steps: Annotated[
        int | None,
        Setting(
            help=f"Denoising steps of targets by {', '.join(FROM_SOURCE)}, 1 to 1000.",
            low=1,
            high=1000,
            usual="the inversion's",
        ),
    ] = None
    layouts: tuple[Layout, ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        given: object = self.target_prompts
        if isinstance(given, str):  # would be taken for one prompt per letter
            raise PromptError("target_prompts is a tuple of prompts, not one string.")
        object.__setattr__(self, "target_prompts", tuple(self.target_prompts))
        if not self.target_prompts:
            raise PromptError("There is no target prompt; give at least one.")
        for number, prompt in enumerate(self.target_prompts, start=1):
            if not without_weights(prompt).strip():
                raise PromptError(f"Target prompt {number} is empty; say what it is to show.")
        parse(self.negative_prompt or "")  # refuses what is no weight
        check(self)
        check_interval(self.guidance_begin, self.guidance_end, self.guidance_scale)
        parse_layers(self.layers)  # refuses what is none
        object.__setattr__(self, "method_options", sorted_pairs(self.method_options))
        also = dict(ALSO_MASACTRLS)
        if self.method == "blended-latent":
            del also["masks"]
            if self.masks is not None and self.masks.by_words:
                raise MaskError(
                    "blended-latent takes masks that are pictures, and words were given; leave "
                    "them out, and it finds a mask by itself."
                )
        check_method(self, also)
        self._check_seed()
        if self.target_steps is not None and self.method not in FROM_SOURCE:
            raise ConfigError(
                f"target_steps={self.target_steps} was given, and targets of {self.method} share "
                "noise and steps of their source; give them to the inversion (steps), or take one "
                f"of {', '.join(FROM_SOURCE)}."
            )
        object.__setattr__(self, "layouts", tuple(self.layouts))
        check_layouts(self)
        if any(layout.source is not None for layout in self.layouts):
            raise ConfigError(
                "A picture that is inverted has no layout of its own; give layouts without source."
            )
        if self.keep_background and self.masks is None:
            raise MaskError("keep_background needs masks that say where the background is.")
        if self.masks is not None:
            self.masks.of_targets(len(self.target_prompts))

    def _check_seed(self) -> None:
        if self.fresh_noise and self.method in FROM_SOURCE:
            raise ConfigError(
                f"fresh_noise={self.fresh_noise:g} was given, and targets of {self.method} begin "
                "with noise of their own; leave it out."
            )
        if self.seed is not None and not self.draws:
            raise ConfigError(
                f"seed={self.seed} was given, and the method {self.method} draws no noise: the "
                "inversion gave it. Leave it out, or ask for fresh_noise; inversions that draw "
                "noise have a seed of their own."
            )

    @property
    def draws(self) -> bool:
        """Whether targets start from noise that the edit draws."""
        return self.method in FROM_SOURCE or self.fresh_noise > 0

    def resolve(self, preset: ModelPreset, steps: int) -> ResolvedEdit:
        """Return the request with nothing left open, for a run of that many steps."""
        preset.check_guidance(self.guidance_scale, self.negative_prompt)
        values = values_of(self) | left_open(self, preset, steps)
        values["guidance_scale"] = float(values["guidance_scale"])
        values["mode"] = self.mode if self.method == "masactrl" else "joint"
        values["seed"] = (self.seed or 0) if self.draws else None
        return ResolvedEdit(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedEdit(EditRequest):
    """An `EditRequest` after the model's preset filled what was left open.

    `control` is a method that no request has words for, see `EditSession.edit`; S and L then are
    the first step and layer that it controls.
    """

    steps: int
    guidance_scale: float
    start_step: int
    start_layer: int
    method_options: tuple[tuple[str, Any], ...] = ()
    control: Method | None = None

    def __post_init__(self) -> None:
        """Nothing: it was checked as it was asked; S and L are here with every method."""

    @property
    def features(self) -> Features:
        """How targets come by the source's features."""
        if self.method in _ALONE:
            return "none"
        return "joint" if self.mode == "joint" else "cached"

    def recipe(self) -> Mapping[str, Any]:
        """Return the request as values that JSON knows; of masks the kind, not the pixels.

        Of a control that is an object its kind is said, so that nobody takes the rest for all.
        """
        apart = ("masks", "control", "layouts")
        masks: Any = None
        if self.masks is not None:
            masks = {"by": "pictures", "threshold": self.masks.threshold}
            masks |= {"files": len(self.masks.stated)} if self.masks.stated else {}
            if self.masks.by_words:
                targets = self.masks.of_targets(len(self.target_prompts))
                masks |= {"by": "words", "source": self.masks.source, "targets": list(targets)}
        said = {name: one for name, one in values_of(self).items() if name not in apart}
        said["masks"] = masks
        if self.layouts:
            said["layouts"] = [layout.described() for layout in self.layouts]
        own = self.control
        return said if own is None else said | {"control": type(own).__qualname__}


def split_seed(
    seed: int | None,
    *,
    method: str,
    inversion: str,
    fresh_steps: int | None,
    fresh_noise: float | None,
) -> tuple[int | None, int | None]:
    """Return the seeds of inversion and edit where one was given for both; None is left out."""
    drawn = method in FROM_SOURCE or bool(fresh_noise)
    own = drawn and not draws_noise(inversion, fresh_steps)
    return None if own else seed, seed if drawn else None


def _is_words(one: object) -> bool:
    if isinstance(one, tuple):
        return bool(one) and all(isinstance(entry, (str, int)) for entry in one)
    return isinstance(one, (str, int))
