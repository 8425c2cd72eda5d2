r"""Mutual self-attention control (Cao et al., ICCV 2023): same content, another pose or action.

    EDIT = A(Q, K_s, V_s)   where step >= S and layer >= L,   else A(Q, K, V)            (Eq. 5)

    f_o  = A(Q, K_s, V_s ; keys in M_s)            the target's queries on the source's object
    f_b  = A(Q, K_s, V_s ; keys in 1 - M_s)        and on the source's background        (Eq. 6, 7)
    f    = f_o * M + f_b * (1 - M)                                                       (Eq. 8)

    A(Q, K, V) = softmax(Q K^T / sqrt(d)) V

    Q, K, V       queries, keys and values of a target's self-attention
    K_s, V_s      keys and values of its source, same layer, same step, same guidance branch
    M_s, M        foreground of the source (over keys) and of the target (over queries)

A self-attention layer called with the source's hidden states as its context *is* A(Q, K_s, V_s):
keys and values are projected from the context. So the layer, its processor and its LoRA stay in
place, and everything below is a few calls of that layer.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from masactrl.attention.attach import attach
from masactrl.attention.features import SourceCache
from masactrl.attention.rows import Part, Rows
from masactrl.attention.schedule import Schedule
from masactrl.errors import ConfigError
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.call import LayerCall
    from masactrl.attention.masks import GivenMasks, WordMasks
    from masactrl.attention.report import Attached
    from masactrl.attention.session import OnUntouched

__all__ = ["Form", "MasaCtrl", "mutual_self_attention"]

Form = Literal["replace", "union"]


def mutual_self_attention(
    call: LayerCall, *, form: Form = "replace", strength: float = 1.0
) -> Tensor:
    """The output (rows, tokens, channels) of one controlled layer.

    `form` "replace" lets a target read its source only (the paper), "union" its source and itself;
    `strength` in [0, 1] blends from the layer's own output (0) to the controlled one (1). Several
    sources are read side by side. With masks each key belongs to the foreground or background of
    the image it comes from, the target's own keys (in "union") to the target's.
    """
    simple = form == "replace" and strength == 1.0 and call.masks is None
    if simple and call.rows.single is not None:
        # Everybody reads one image; sources read themselves, so their output keeps every bit.
        return call.layer(call.hidden, call.bank[call.rows.single])
    parts = [_part(call, part, form, strength) for part in call.rows.parts]
    return torch.cat(parts)[call.rows.restore]


def _part(call: LayerCall, part: Part, form: Form, strength: float) -> Tensor:
    """The output for rows that read the same number of images."""
    queries = call.hidden[part.rows]
    if not part.sources:
        return call.layer(queries)
    read = (*part.sources, part.own) if form == "union" else part.sources
    context = torch.cat([call.bank[index] for index in read], dim=1)
    if call.masks is None:
        edited = call.layer(queries, context)
    else:
        m_s = torch.cat([call.masks[index] for index in read], dim=1)
        m = call.masks[part.own][:, :, None].to(queries.dtype)
        f_o = call.layer(queries, context, m_s)
        f_b = call.layer(queries, context, 1 - m_s)
        edited = f_o * m + f_b * (1 - m)
    return edited if strength == 1.0 else torch.lerp(call.layer(queries), edited, strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class MasaCtrl:
    """The control as a value: when and where, in which form, how strongly.

    `schedule` chooses steps and layers; `form` and `strength` are those of
    `mutual_self_attention`; `masks` switches to the mask-guided form (Eq. 6 to 8), with given masks
    or with masks from named words; `on_untouched` says what happens when a run ends without the
    control having acted. Raises `ConfigError` for values outside their range.

        control = MasaCtrl(schedule=PRESETS["sd"])
        with control.attach(pipeline, Rows.one_source(targets=1)):
            source, target = pipeline([source_prompt, target_prompt], latents=noise).images
    """

    schedule: Schedule
    form: Form = "replace"
    strength: float = 1.0
    masks: GivenMasks | WordMasks | None = None
    on_untouched: OnUntouched = "raise"

    def __post_init__(self) -> None:
        settle(self)
        if self.form not in ("replace", "union"):
            raise ConfigError(f"form={self.form!r} was given; accepted are 'replace' and 'union'.")
        if not 0.0 <= self.strength <= 1.0:
            raise ConfigError(f"strength={self.strength} was given; accepted is 0 to 1.")
        if self.on_untouched not in ("raise", "warn"):
            raise ConfigError(
                f"on_untouched={self.on_untouched!r} was given; accepted are 'raise' and 'warn'."
            )

    @property
    def name(self) -> str:
        """Its name among the methods."""
        return "masactrl"

    @property
    def start(self) -> None:
        """Targets start from the noise of their source."""
        return

    def __call__(self, call: LayerCall) -> Tensor:
        """The controlled output of one layer call."""
        return mutual_self_attention(call, form=self.form, strength=self.strength)

    @contextmanager
    def attach(
        self,
        pipeline: DiffusionPipeline,
        rows: Rows,
        *,
        source: SourceCache | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Iterator[Attached]:
        """Control `pipeline` inside the `with` block; `rows` says which image reads which.

        Sources and targets share one batch and, for the paper's setting, one start noise. With
        `source` the sources come from a recording (see `record`) and the batch holds targets only.
        `prompts` are taken because every method takes them; words are named in `masks`.
        Raises what `masactrl.attention.attach` raises.
        """
        del prompts
        schedule = self.schedule if self.strength > 0.0 else Schedule.never()
        with attach(
            pipeline,
            self,
            rows=rows,
            schedule=schedule,
            masks=self.masks,
            source=source,
            on_untouched=self.on_untouched,
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
    ) -> Iterator[SourceCache]:
        """Record what targets will read of the `sources` images of a run inside the `with` block.

        The run itself is not changed. `dtype` and `device` say how the features are kept. A second
        run in the same block replaces the recording.

            with control.record(pipeline) as source:
                pipeline(source_prompt, latents=noise)
            with control.attach(pipeline, Rows.from_cache(targets=3), source=source):
                pipeline(target_prompts, latents=noise.expand(3, -1, -1, -1))
        """
        cache = SourceCache(dtype=dtype, device=device)
        with attach(
            pipeline,
            None,
            rows=Rows.plain(images=sources),
            schedule=self.schedule,
            masks=self.masks,
            record=cache,
            on_untouched=self.on_untouched,
        ):
            yield cache
