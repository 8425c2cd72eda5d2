"""Guidance in a part of a run (Kynkäänniemi et al., arXiv 2404.07724); outside it, one branch.

Outside the interval the network gets the prompts' half of the batch alone, and its answer stands
for both halves: u + scale (c - u) = c. So it works in every pipeline that puts the unconditional
half first, and saves half of those evaluations.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor

from masactrl.attention.networks import network_of
from masactrl.attention.observing import installed
from masactrl.attention.steps import StepTracker
from masactrl.diffusion.guidance import guided_steps
from masactrl.errors import ConfigError
from masactrl.models.joint import reads_guidance

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_guided_interval", "guidance_within"]


def check_guided_interval(pipeline: Any, interval: tuple[float, float], scale: float) -> None:
    """Refuse an interval where there is no second branch to leave out; ConfigError."""
    if interval == (0.0, 1.0):
        return
    if reads_guidance(pipeline) or scale <= 1:
        raise ConfigError(
            "guidance_begin and guidance_end say where the unconditional branch is computed, and "
            f"this run has none (guidance scale {scale:g}"
            f"{', told to the network as a number' if reads_guidance(pipeline) else ''}); leave "
            "them out."
        )


@contextmanager
def guidance_within(pipeline: Any, begin: float, end: float) -> Iterator[None]:
    """Let guidance act in a part of the run inside the `with` block; the whole run changes nothing.

    Attach it last: what is attached before sees one branch where there is one.

    Args:
        pipeline: which is called with guidance inside.
        begin, end: shares of the run, see `guided_steps`.
    """
    if (begin, end) == (0.0, 1.0):
        yield
        return
    _, network = network_of(pipeline)
    hook = _OneBranch(pipeline, begin, end)
    with installed([(network, hook)]):
        yield


class _OneBranch(ModelHook):  # type: ignore[misc]  # untyped
    """Halves the batch at steps without guidance."""

    def __init__(self, pipeline: Any, begin: float, end: float) -> None:
        super().__init__()
        self._pipeline, self._begin, self._end = pipeline, begin, end
        self._family, _ = network_of(pipeline)
        self._tracker = StepTracker(self._family.time_scale)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def new_forward(self, _module: Any, *args: Any, **kwargs: Any) -> Any:
        """The network's output, of the prompts' half alone where there is no guidance."""
        chain: Any = self.fn_ref
        forward = chain.original_forward
        call = self._family.read(args, kwargs)
        info = self._tracker.step_of(call.timestep, self._pipeline.scheduler)
        if info.step in guided_steps(len(info.timesteps), self._begin, self._end):
            return forward(*args, **kwargs)
        rows = call.sample.shape[0]
        output = forward(*_half(args, rows), **_half(kwargs, rows))
        if isinstance(output, tuple):
            return (torch.cat([output[0], output[0]]), *output[1:])
        return type(output)(sample=torch.cat([output.sample, output.sample]))


def _half(value: Any, rows: int) -> Any:
    """The second half of every tensor that has as many rows as the batch."""
    if isinstance(value, Tensor):
        return value[rows // 2 :] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {name: _half(one, rows) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_half(one, rows) for one in value)
    return value
