"""When and where the control acts: steps and layers as data.

The paper's EDIT function (Eq. 5) acts when step > S and layer > L; its code, which is followed
here, includes both bounds: step >= S and layer >= L. Steps count from 0, the first and noisiest;
layers count from 0 in execution order (see `layers`). Nothing here knows whose network it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from masactrl.errors import ScheduleError
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "PLACES",
    "PRESETS",
    "SDXL_START_LAYERS",
    "LayerPlace",
    "Place",
    "Schedule",
    "Window",
    "preset",
]

Place = Literal["encoder", "mid", "decoder", "joint", "single"]
"""Parts of a network: of a U-Net the first three; "joint" are the blocks of SD3 and the double
blocks of FLUX, where text and picture have weights of their own, "single" FLUX's other blocks."""
PLACES: tuple[Place, ...] = ("encoder", "mid", "decoder", "joint", "single")


class LayerPlace(Protocol):
    """What a schedule asks of a layer: an `AttentionLayer` has it, other hosts' layers too.

    `index` counts in execution order, `place` is the part of the network and `scale` the factor by
    which the layer's grid is smaller than the latent.
    """

    @property
    def index(self) -> int:
        """Number in execution order."""
        ...

    @property
    def place(self) -> Place:
        """Part of the network."""
        ...

    @property
    def scale(self) -> int:
        """Latent cells along one side of a token."""
        ...


_Layer = TypeVar("_Layer", bound=LayerPlace)


_FRACTION = "A part of the run is written as fraction=(begin, end) with 0 <= begin < end <= 1."


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Steps and layers at which the control acts; what is not limited is controlled everywhere.

    Steps, of which all that are given must hold:

    - `start_step`: S, the first controlled step, inclusive;
    - `fraction`: `(begin, end)` as parts of the run, 0 to 1, `begin` inclusive and `end` exclusive,
      so that (0.08, 1.0) means S=4 of 50 steps and S=2 of 20;
    - `max_timestep`: only where the training timestep is at most this, which keeps its meaning
      when image-to-image starts in the middle of the noise schedule;
    - `steps`: exactly these steps; stands alone.

    Layers, of which all that are given must hold:

    - `start_layer`: L, the first controlled layer, inclusive;
    - `places`: any of "encoder", "mid", "decoder", in SD3 and FLUX "joint" and "single";
    - `scales`: only layers whose grid is smaller than the latent by one of these factors
      (1, 2, 4, 8);
    - `layers`: exactly these layers, a list or a `range`; stands alone.

    `Schedule.never()` is the only empty schedule. Raises `ScheduleError` for values that contradict
    each other; whether steps and layers exist is checked against the run and the model.
    """

    start_step: int | None = None
    steps: tuple[int, ...] | None = None
    fraction: tuple[float, float] | None = None
    max_timestep: float | None = None
    start_layer: int | None = None
    layers: tuple[int, ...] | None = None
    places: tuple[Place, ...] | None = None
    scales: tuple[int, ...] | None = None
    idle: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "places", "scales", "fraction"):
            self._freeze(name)
        settle(self, ScheduleError, hint=_FRACTION)
        if self.idle:
            if any(getattr(self, f.name) is not None for f in fields(self) if f.name != "idle"):
                raise ScheduleError(
                    "An idle schedule takes no steps or layers; use Schedule.never() alone."
                )
            return
        self._check_alone("steps", ("start_step", "fraction", "max_timestep"))
        self._check_alone("layers", ("start_layer", "places", "scales"))
        for name in ("start_step", "start_layer"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ScheduleError(f"{name}={value} was given; counting starts at 0.")
        if self.fraction is not None:
            pair = self.fraction
            if len(pair) != 2 or not 0.0 <= pair[0] < pair[1] <= 1.0:
                raise ScheduleError(
                    f"fraction={self.fraction} was given; accepted is (begin, end) with "
                    "0 <= begin < end <= 1."
                )
        unknown = set(self.places or ()) - set(PLACES)
        if unknown:
            raise ScheduleError(
                f"The place {sorted(unknown)[0]!r} is not known; use any of {', '.join(PLACES)}."
            )

    def _freeze(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, str) or not hasattr(value, "__len__"):
            value = (value,)
        if len(value) == 0:
            raise ScheduleError(
                f"{name} is empty, so nothing would be controlled. Leave {name} out to control "
                "all, or use Schedule.never() to control nothing on purpose."
            )
        object.__setattr__(self, name, tuple(value))

    def _check_alone(self, explicit: str, others: tuple[str, ...]) -> None:
        clash = [name for name in others if getattr(self, name) is not None]
        if getattr(self, explicit) is not None and clash:
            raise ScheduleError(
                f"{explicit} and {clash[0]} were both given; an explicit list stands alone, "
                "so give one of them."
            )

    @classmethod
    def never(cls) -> Schedule:
        """The schedule that controls nothing, on purpose."""
        return cls(idle=True)

    def resolve_layers(self, layers: Sequence[_Layer]) -> tuple[_Layer, ...]:
        """The controlled layers of a model; `ScheduleError` when a layer does not exist."""
        if self.idle:
            return ()
        last = len(layers) - 1
        known = list(dict.fromkeys(layer.place for layer in layers))
        if self.places is not None and not set(self.places) & set(known):
            raise ScheduleError(
                f"The place {self.places[0]!r} was asked for, but this network has the places "
                f"{', '.join(known)}; choose among them."
            )
        for number in self.layers or ():
            _check_exists("layer", number, last, "this model has self-attention layers")
        if self.start_layer is not None:
            _check_exists("start_layer", self.start_layer, last, "this model has layers")
        if self.layers is not None:
            chosen = [layer for layer in layers if layer.index in self.layers]
        else:
            chosen = [layer for layer in layers if layer.index >= (self.start_layer or 0)]
        chosen = [s for s in chosen if self.places is None or s.place in self.places]
        if self.scales is not None:
            present = sorted({layer.scale for layer in layers})
            missing = sorted(set(self.scales) - set(present))
            if missing:
                raise ScheduleError(
                    f"scale {missing[0]} was asked for, but the layers of this model are at "
                    f"scales {', '.join(map(str, present))} of the latent; choose among them."
                )
            chosen = [layer for layer in chosen if layer.scale in self.scales]
        if not chosen:
            raise ScheduleError(
                "The layer conditions of the schedule exclude each other: no layer meets "
                f"start_layer={self.start_layer}, places={self.places} and scales={self.scales} "
                "together. Drop one of them."
            )
        return tuple(chosen)

    def resolve_steps(self, timesteps: Sequence[float]) -> frozenset[int]:
        """The controlled steps of a run whose steps have these timesteps, noisiest first.

        `ScheduleError` when a step does not exist in the run or no step is left.
        """
        if self.idle:
            return frozenset()
        count = len(timesteps)
        for step in self.steps or ():
            _check_exists("step", step, count - 1, f"a run of {count} steps has steps")
        if self.steps is not None:
            return frozenset(self.steps)
        if self.start_step is not None:
            _check_exists(
                "start_step", self.start_step, count - 1, f"a run of {count} steps has steps"
            )
        begin, end = self.fraction or (0.0, 1.0)
        # The small slack keeps 0.08 * 50 at 4 whatever the last binary digit.
        first = max(self.start_step or 0, math.ceil(begin * count - 1e-9))
        stop = math.ceil(end * count - 1e-9)
        chosen = range(first, stop)
        limit = math.inf if self.max_timestep is None else self.max_timestep
        steps = frozenset(step for step in chosen if timesteps[step] <= limit)
        if not steps:
            raise ScheduleError(
                f"No step of this run is controlled: it has {count} steps at timesteps "
                f"{timesteps[0]:g} to {timesteps[-1]:g}, but start_step={self.start_step}, "
                f"fraction={self.fraction} and max_timestep={self.max_timestep} leave none. "
                "Start earlier, or use fraction, which fits any number of steps."
            )
        return steps

    def resolve(self, layers: Sequence[LayerPlace], timesteps: Sequence[float] | int) -> Window:
        """Steps and layers for one model and one run.

        `timesteps` are the run's timesteps, or only their number when no timestep threshold is
        used. Raises `ScheduleError` naming the valid range.
        """
        if isinstance(timesteps, int):
            if self.max_timestep is not None:
                raise ScheduleError(
                    "max_timestep needs the run's timesteps, but only their number was given."
                )
            timesteps = [0.0] * timesteps
        chosen = self.resolve_layers(layers)
        return Window(
            steps=self.resolve_steps(timesteps), layers=frozenset(layer.index for layer in chosen)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The (step, layer) pairs of one run on one model: every step with every layer."""

    steps: frozenset[int]
    layers: frozenset[int]

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair[0] in self.steps and pair[1] in self.layers


def _check_exists(name: str, value: int, last: int, having: str) -> None:
    if not 0 <= value <= last:
        raise ScheduleError(f"{name}={value} was asked for, but {having} 0 to {last}.")


# Section 4 of the paper and its code: S=4 of 50 steps, L=10. Written as a part of the run so that
# the same preset fits any number of steps. The SDXL script of the authors tries these three layers
# and 34 is the first decoder layer; none of them is tuned.
#
# FLUX: the layers whose output depends least on position, all steps (FreeFlux, non-rigid edits at
# guidance 3.5), and those that a picture needs most (Stable Flow). SD3: nothing was published;
# these are the paper's steps and the second half of the layers, as in a U-Net, and not tuned.
SDXL_START_LAYERS = (34, 44, 54, 64)
FLUX_LAYERS = (0, 7, 8, 9, 10, 18, 25, 28, 37, 42, 45, 50, 56)
FLUX_VITAL_LAYERS = (0, 1, 17, 18, 25, 28, 53, 54, 56)
PRESETS = MappingProxyType(
    {
        "sd": Schedule(fraction=(0.08, 1.0), start_layer=10),
        **{
            f"sdxl-{layer}": Schedule(fraction=(0.08, 1.0), start_layer=layer)
            for layer in SDXL_START_LAYERS
        },
        "sdxl": Schedule(fraction=(0.08, 1.0), start_layer=44),
        "sd3": Schedule(fraction=(0.08, 1.0), start_layer=12),
        "sd3.5-large": Schedule(fraction=(0.08, 1.0), start_layer=19),
        "flux": Schedule(layers=FLUX_LAYERS),
        "flux-vital": Schedule(layers=FLUX_VITAL_LAYERS),
    }
)


def preset(layers: Sequence[LayerPlace]) -> Schedule:
    """The preset that fits a model by its layers: 16 are Stable Diffusion's, 70 XL's, 57 FLUX's.

    24 and 38 joint layers are SD3's and SD3.5 large's. Raises `ScheduleError` for other layouts.
    """
    joint = any(layer.place == "joint" for layer in layers)
    known = {24: "sd3", 38: "sd3.5-large", 57: "flux"} if joint else {16: "sd", 70: "sdxl"}
    if len(layers) not in known:
        raise ScheduleError(
            f"This model has {len(layers)} self-attention layers and there is no preset for it "
            "(Stable Diffusion has 16, SDXL 70, SD3 24, SD3.5 large 38, FLUX 57). Give a Schedule "
            "of your own."
        )
    return PRESETS[known[len(layers)]]
