"""What every editing method is: a name, a way to attach, and where its targets begin.

A method edits *targets* that run in one batch with their *source*; `Rows` says which is which. Most
methods are attachments: for the length of a `with` block they change what layers compute.

    with method.attach(pipeline, rows, prompts=prompts):
        pictures = pipeline(prompts, latents=noise)

SDEdit is none: it leaves every layer alone and starts its targets from the noised source instead of
from noise. Hence the second half of the protocol, `start`: None for attachments, otherwise a
`Start` that says at which step targets begin and with which latents. A runner asks it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from masactrl.attention.report import Attached
from masactrl.errors import PromptError, RowsError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from masactrl.attention.rows import Rows

__all__ = ["Handle", "Method", "Parts", "Start", "check_pairs", "check_prompts"]


class Start(Protocol):
    """Where targets begin when it is not the noise they share with their source."""

    def first_step(self, steps: int) -> int:
        """The step at which targets begin in a run of `steps` steps, 0 to steps - 1."""
        ...

    def latents(self, z_0: Tensor, noise: Tensor, levels: tuple[float, float]) -> Tensor:
        """The targets' latents (n, c, h, w) before that step.

        `z_0` (n, c, h, w) are the source's clean latents, `noise` is standard normal of the same
        shape, `levels` the shares of picture and noise there, see `NoiseSchedule.pair`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a method really did that acts in several places: one handle for each, by name.

    `after_step`, where it is not None, has to see the latents (images, c, h, w) after every step of
    the sampler and returns those to go on with. Loops that step with `pipeline.scheduler`, as all
    pipelines do, need not call it: there it is called by itself.
    """

    by_name: Mapping[str, Attached]
    after_step: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", MappingProxyType(dict(self.by_name)))

    @property
    def touched(self) -> frozenset[tuple[int, int]]:
        """The (step, layer) pairs controlled in the latest run, anywhere."""
        pairs = [part.touched for part in self.by_name.values() if part.runs]
        return frozenset().union(*pairs)


Handle = Attached | Parts
"""What `attach` yields: which steps and layers were controlled."""


class Method(Protocol):
    """An editing method, a frozen value."""

    @property
    def name(self) -> str:
        """Its name in `masactrl.methods.METHODS`."""
        ...

    @property
    def start(self) -> Start | None:
        """Where targets begin; None is the noise that they share with their source."""
        ...

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Handle]:
        """Control `pipeline` inside the `with` block; leaves it as it was, also by an exception.

        `rows` says which image reads which, `prompts` are the prompts of all its images in order;
        methods that align words need them.
        """
        ...


def check_pairs(name: str, rows: Rows) -> None:
    """Refuse rows that a method of one source a target cannot read; `RowsError`."""
    if rows.cached:
        raise RowsError(
            f"{name} needs its source in the same batch and {rows.cached} recorded sources were "
            "given. Use rows such as Rows.one_source(targets=...)."
        )
    for image in rows.targets:
        if len(rows.reads[image]) != 1:
            raise RowsError(
                f"Image {image} reads {rows.reads[image]}, but with {name} a target has exactly "
                "one source, another image. Give one source a target."
            )


def check_prompts(name: str, rows: Rows, prompts: Sequence[str] | None) -> tuple[str, ...]:
    """The prompts, one per image; `PromptError` when they are missing or of another number."""
    if prompts is None or isinstance(prompts, str):
        raise PromptError(
            f"{name} aligns the words of the prompts; pass prompts=..., one per image of the rows."
        )
    if len(prompts) != rows.images:
        raise PromptError(
            f"{name} was given {len(prompts)} prompts for {rows.images} images; give one per image "
            "in the order of the batch."
        )
    return tuple(prompts)
