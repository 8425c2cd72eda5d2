"""MasaCtrl (Cao et al., ICCV 2023) as a method: mutual self-attention from step S and layer L on.

The equations are in `mutual`, steps and layers in `masactrl.attention.schedule`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from masactrl.attention.attachment import attach
from masactrl.attention.features import SourceFeatures
from masactrl.attention.positions import Policy, Positions
from masactrl.attention.rows import Rows
from masactrl.attention.schedule import Schedule
from masactrl.errors import ConfigError
from masactrl.methods.mutual import Form, mutual_self_attention
from masactrl.settings.checks import settle
from masactrl.settings.shared import parse_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from masactrl.attention.call import LayerCall
    from masactrl.attention.masks import GivenMasks, WordMasks
    from masactrl.attention.report import Attached
    from masactrl.attention.session import OnUntouched

__all__ = ["MasaCtrl", "Settings"]


class Settings(Protocol):
    """What a request says of this control, nothing left open."""

    @property
    def start_step(self) -> int:
        """S."""
        ...

    @property
    def start_layer(self) -> int:
        """L."""
        ...

    @property
    def layers(self) -> str:
        """Which of the layers from L on, in words; empty is all."""
        ...

    @property
    def form(self) -> Form:
        """What targets read."""
        ...

    @property
    def strength(self) -> float:
        """0 to 1."""
        ...

    @property
    def positions(self) -> Policy:
        """Where keys that are read stand."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MasaCtrl:
    """The control as a value: when and where, in which form, how strongly.

    `schedule` chooses steps and layers; `form` and `strength` are those of
    `mutual_self_attention`; `masks` switches to the mask-guided form (Eq. 6 to 8), with given masks
    or with masks from named words; `positions` is where the keys that are read stand in networks
    with rotary embeddings (FLUX): the name of a policy of `masactrl.attention.positions`, or one
    with its values; `on_untouched` says what happens when a run ends without the control having
    acted. Raises `ConfigError` for values outside their range.

        control = MasaCtrl(schedule=PRESETS["sd"])
        with control.attach(pipeline, Rows.one_source(targets=1)):
            source, target = pipeline([source_prompt, target_prompt], latents=noise).images
    """

    schedule: Schedule
    form: Form = "replace"
    strength: float = 1.0
    masks: GivenMasks | WordMasks | None = None
    positions: Positions | Policy | None = None
    on_untouched: OnUntouched = "raise"
    name: ClassVar[str] = "masactrl"
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        Positions.of(self.positions)  # refuses a policy that is not known
        if self.form not in ("replace", "union"):
            raise ConfigError(f"form={self.form!r} was given; accepted are 'replace' and 'union'.")
        if not 0.0 <= self.strength <= 1.0:
            raise ConfigError(f"strength={self.strength} was given; accepted is 0 to 1.")
        if self.on_untouched not in ("raise", "warn"):
            raise ConfigError(
                f"on_untouched={self.on_untouched!r} was given; accepted are 'raise' and 'warn'."
            )

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        start: tuple[int, int] | None = None,
        masks: GivenMasks | WordMasks | None = None,
    ) -> MasaCtrl:
        """The control that a request asks for; `start` is S and L in place of the request's.

        Raises `ScheduleError` when L is beyond all layers that the request names.
        """
        step, layer = start or (settings.start_step, settings.start_layer)
        if (named := parse_layers(settings.layers)) is None:
            schedule = Schedule(start_step=step, start_layer=layer)
        else:
            schedule = Schedule(start_step=step, layers=tuple(n for n in named if n >= layer))
        return cls(
            schedule=schedule,
            form=settings.form,
            strength=settings.strength,
            masks=masks,
            positions=settings.positions,
        )

    @property
    def replayable(self) -> bool:
        """Whether calls of equal shapes differ in nothing but their tensors; see `GraphHook`."""
        return True

    @property
    def _simple(self) -> bool:
        """Whether targets only ever read as many keys as they have, all of them."""
        return self.form == "replace" and self.strength in (0.0, 1.0) and self.masks is None

    def __call__(self, call: LayerCall) -> Tensor:
        """The controlled output of one layer call."""
        return mutual_self_attention(call, form=self.form, strength=self.strength)

    @contextmanager
    def attach(
        self,
        pipeline: DiffusionPipeline,
        rows: Rows,
        *,
        source: SourceFeatures | None = None,
        record: SourceFeatures | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Iterator[Attached]:
        """Control `pipeline` inside the `with` block; `rows` says which image reads which.

        Sources and targets share one batch and, for the paper's setting, one start noise. With
        `source` the sources come from a recording (see `record`) and the batch holds targets only.
        With `record` all images of the batch are recorded while they run, for others to read.
        `prompts` are taken because every method takes them; words are named in `masks`.
        Raises what `masactrl.attention.attach` raises.
        """
        del prompts
        works = self.strength > 0.0 or record is not None
        schedule = self.schedule if works else Schedule.never()
        with attach(
            pipeline,
            self,
            rows=rows,
            schedule=schedule,
            masks=self.masks,
            source=source,
            record=record,
            on_untouched=self.on_untouched,
            own_attention=not self._simple,
            positions=Positions.of(self.positions),
        ) as attached:
            yield attached

    @contextmanager
    def record(
        self,
        pipeline: DiffusionPipeline,
        *,
        sources: int = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[SourceFeatures]:
        """Record what targets will read of the `sources` images of a run inside the `with` block.

        The run itself is not changed. `dtype` and `device` say how the features are kept. A second
        run in the same block replaces the recording.

            with control.record(pipeline) as source:
                pipeline(source_prompt, latents=noise)
            with control.attach(pipeline, Rows.from_cache(targets=3), source=source):
                pipeline(target_prompts, latents=noise.expand(3, -1, -1, -1))
        """
        cache = SourceFeatures(dtype=dtype, device=device)
        with attach(
            pipeline,
            None,
            rows=Rows.plain(images=sources),
            schedule=self.schedule,
            masks=self.masks,
            record=cache,
            on_untouched=self.on_untouched,
            positions=Positions.of(self.positions),
        ):
            yield cache
