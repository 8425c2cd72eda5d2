"""One batch of edits by any method: sources beside targets, or targets from their noised sources.

Whoever makes pictures (generate, compare, the benchmarks) brings the call of the pipeline; this
file brings the rows, the prompts in their order, the attachment and the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.rows import Rows
from masactrl.errors import ConfigError
from masactrl.methods.starts import beginning
from masactrl.models.drawing import exact_ddim

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from masactrl.methods.method import Method

__all__ = ["Call", "Made", "keep_latents", "run_method"]

Call = Callable[..., Tensor]
"""`call(prompts, latents, callback)` runs the pipeline and returns pictures (n, 3, h, w) in [0, 1].

`callback` is a `callback_on_step_end` of diffusers, or None.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What one call made.

    Attributes:
        sources: (n, 3, h, w) in [0, 1]; None when their latents were given and no source was run.
        targets: (n, 3, h, w) in [0, 1].
        source_latents: (n, c, h, w), the sources' clean latents.
    """

    sources: Tensor | None
    targets: Tensor
    source_latents: Tensor


def run_method(
    pipeline: DiffusionPipeline,
    method: Method,
    *,
    source_prompts: Sequence[str],
    target_prompts: Sequence[str],
    noise: Tensor,
    steps: int,
    call: Call,
    source_latents: Tensor | None = None,
) -> Made:
    """Edit n pairs of a source and a target, pair by pair from the same noise (n, c, h, w).

    Attachments run sources and targets in one batch of 2 n. A method that starts from the source
    runs sources first, unless their clean `source_latents` are given, then the targets.

    Raises:
        ConfigError: the numbers of prompts and noises differ.
    """
    n = len(source_prompts)
    if len(target_prompts) != n or noise.shape[0] != n:
        raise ConfigError(
            f"{n} source prompts, {len(target_prompts)} target prompts and {noise.shape[0]} noises "
            "were given; give as many of each."
        )
    with exact_ddim(pipeline):  # before anything is attached, also to the scheduler
        return _made(
            pipeline, method, (source_prompts, target_prompts), noise, steps, call, source_latents
        )


def _made(
    pipeline: DiffusionPipeline,
    method: Method,
    prompts_of: tuple[Sequence[str], Sequence[str]],
    noise: Tensor,
    steps: int,
    call: Call,
    source_latents: Tensor | None,
) -> Made:
    """See `run_method`."""
    source_prompts, target_prompts = prompts_of
    n = len(source_prompts)
    kept: list[Tensor] = []
    if method.start is None:
        prompts = [*source_prompts, *target_prompts]
        reads = (*((k,) for k in range(n)), *((k,) for k in range(n)))
        with method.attach(pipeline, Rows(images=2 * n, reads=reads), prompts=prompts):
            made = call(prompts, torch.cat([noise, noise]), keep_latents(kept))
        return Made(sources=made[:n], targets=made[n:], source_latents=kept[-1][:n])
    sources = None
    if source_latents is None:
        sources = call(list(source_prompts), noise, keep_latents(kept))
        source_latents = kept[-1]
    prompts = list(target_prompts)
    with beginning(
        pipeline,
        method,
        prompts=prompts,
        z_0=source_latents,
        noise=noise,
        steps=steps,
        source_prompts=source_prompts,
    ) as z_t:
        targets = call(prompts, z_t, None)
    return Made(sources=sources, targets=targets, source_latents=source_latents)


def keep_latents(kept: list[Tensor]) -> Callable[..., dict[str, Any]]:
    """A callback of diffusers that leaves the latents of the latest step in `kept`."""

    def keep(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept[:] = [values["latents"]]
        return values

    return keep
