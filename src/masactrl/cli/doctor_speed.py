"""What `masactrl doctor` finds: its lines, and what other precisions and compiling save here."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from masactrl.runs.generate import generate
from masactrl.runs.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from PIL import Image

    from masactrl.models import LoadedModel

ASKED = GenerateRequest(
    source_prompt="a cat standing in the snow, facing left",
    target_prompts=("a cat running in the snow, facing left",),
    seed=3,
    steps=12,
)
"""What the embedded model is asked for; the inspector says whether it is there."""

_PAYS = 1.1  # times as fast, from which on another precision is worth a word


class State(StrEnum):
    """How a check ended."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report: what was looked at, how it is, and what was seen."""

    name: str
    state: State
    seen: str


def half(model: LoadedModel, pictures: Sequence[Image.Image]) -> Check:
    """Say what bfloat16 saves on this processor, and how far its pictures are from float32's.

    Args:
        model: in float32.
        pictures: that it made of what is `ASKED`.
    """
    from masactrl.models import load_pipeline
    from masactrl.runs.reconstruction import psnr

    fast = load_pipeline("puppets", device="cpu", dtype="bfloat16")
    # In turns, so that a busy machine is busy for both; the least is what was disturbed least.
    turns = [(_call(model), _call(fast)) for _ in range(4)][1:]
    before, after = (min(times) for times in zip(*turns, strict=True))
    gain = before / after
    if gain < _PAYS:
        seen = f"a step is {gain:.2f} times as fast: it does not pay here"
        return Check(name="bfloat16 pays", state=State.NOTE, seen=seen)
    made = generate(fast, ASKED).pictures().values()
    apart = [psnr(one, other) for one, other in zip(pictures, made, strict=True)]
    return Check(
        name="bfloat16 pays",
        state=State.GOOD,
        seen=f"a step is {gain:.2f} times as fast with --dtype bfloat16; pictures are "
        f"{min(apart):.0f} to {max(apart):.0f} dB from those of float32",
    )


def _call(model: LoadedModel) -> float:
    """Seconds of one step of two pictures with guidance."""
    import torch

    unet = model.pipeline.unet
    width = unet.config.cross_attention_dim
    shape = (4, unet.config.in_channels, *(2 * [unet.config.sample_size]))
    z, words = torch.zeros(shape, dtype=unet.dtype), torch.zeros(4, 77, width, dtype=unet.dtype)
    started = time.perf_counter()
    with torch.no_grad():
        unet(z, 500, encoder_hidden_states=words)
    return time.perf_counter() - started


def compiling(device: torch.device) -> Iterator[Check]:
    """Measure what compiling the embedded model costs, and after how many pictures it is saved."""
    from masactrl.models import load_pipeline

    plain = load_pipeline("puppets", device=str(device))
    generate(plain, ASKED)  # the first call of a process is slow
    for way in ("graphs", "kernels") if device.type == "cuda" else ("kernels",):
        fast = load_pipeline("puppets", device=str(device), compiled=way)
        first = generate(fast, ASKED).seconds
        # In turns, so that a busy machine is busy for both.
        runs = [(generate(plain, ASKED).seconds, generate(fast, ASKED).seconds) for _ in range(3)]
        before, after = (min(times) for times in zip(*runs, strict=True))
        yield Check(
            name=f"compile {way}",
            state=State.GOOD if after < before else State.NOTE,
            seen=f"{before:.2f} s a run become {after:.2f} s, the first takes {first:.1f} s: "
            + pays_after(first, before, after),
        )


def pays_after(first: float, before: float, after: float) -> str:
    """Say after how many runs a first slow one is made up for, from seconds of a run."""
    saved = before - after
    if saved < before / 50:
        return "it does not pay here"
    # n runs are first + (n - 1) after instead of n before.
    return f"it pays from run {max(1, math.ceil((first - after) / saved))} on"
