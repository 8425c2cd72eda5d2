"""What every inversion is given, and what it may be asked for: one latent and a prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from masactrl.diffusion import FlowRule, NoiseKind, Trajectory, noise_like
from masactrl.errors import ConfigError
from masactrl.models.guided import Condition, Guided

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.diffusion import NoiseSchedule, OnStep, Spacing, Walk
    from masactrl.models.denoiser import Denoiser

__all__ = ["Inversion", "InversionTask", "climb"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InversionTask:
    """One picture on its way to noise.

    Attributes:
        denoiser: the networks.
        schedule: the noise levels; one number of steps for the inversion and all edits.
        latents: z_0, the picture (1, c, h, w).
        prompt: what the picture shows; empty for nothing.
        guidance: weight of classifier-free guidance of the source, 1 for none.
        seed: of the methods that draw noise.
        on_step: told about every step.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    latents: Tensor
    prompt: str = ""
    guidance: float = 1.0
    seed: int = 0
    on_step: OnStep | None = None

    def source(self, unconditional_prompt: str = "", *, guidance: float | None = None) -> Guided:
        """Return the noise prediction of the source alone, with as few rows as serve."""
        scale = self.guidance if guidance is None else guidance
        single = scale == 1 or unconditional_prompt == self.prompt
        prompts = [self.prompt] if single else [self.prompt, unconditional_prompt]
        text = self.denoiser.encode_text(prompts)
        condition = Condition(
            text=text.row(0), unconditional=None if single else text.row(1), scale=scale
        )
        return Guided(self.denoiser, [condition], self.schedule)

    def draw(self, count: int) -> Tensor:
        """Return noise (count, 1, c, h, w), drawn on the CPU so that a seed means the same."""
        return noise_like(self.latents, self.seed, count=count)

    def done(self, step: int) -> None:
        """Tell that a step is over."""
        if self.on_step is not None:
            self.on_step(step, self.schedule.timesteps[step])


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion(ABC):
    """Turns a picture into a trajectory; see the package for the methods there are.

    What a method has not said otherwise it has from here.

    Attributes:
        name: what the method is asked for by.
        kinds: of which models: "diffusion" (U-Nets), "flow" (SD3, FLUX).
        replay: whether the source is put back on its trajectory at every step, unless asked
            otherwise. Methods that are meant to reconstruct by themselves leave it free.
        visits: where the network is asked: "at" the latents of the trajectory, "near" them, one
            level off, or elsewhere.
        rule: by which a flow's source is walked.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("diffusion",)
    replay: ClassVar[bool] = False
    visits: ClassVar[Literal["at", "near", ""]] = ""
    rule: ClassVar[FlowRule] = "euler"

    @property
    def spacing(self) -> Spacing | None:
        """How timesteps are spaced; None is the model's own way."""
        return None

    def passes(self, steps: int, branches: int) -> int:
        """Return the most rows that go through the network, for one or two guidance branches."""
        return steps * branches

    def settings(self) -> dict[str, Any]:
        """Return the method's own options, for the record."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @abstractmethod
    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""

    def trajectory(
        self, task: InversionTask, latents: Tensor, *, walk: Walk | None = None, **more: Any
    ) -> Trajectory:
        """Return what a task has come to; see `Trajectory` for latents, walk and the others."""
        usual: Walk = self.rule if task.schedule.kind == "flow" else "ddim"
        return Trajectory(
            latents=latents,
            schedule=task.schedule,
            method=self.name,
            prompt=task.prompt,
            guidance=task.guidance,
            replay=self.replay,
            walk=walk or usual,
            **{"options": self.settings(), **more},
        )


def climb(
    task: InversionTask,
    up: Callable[[Tensor, int], Tensor],
    fresh_steps: int = 0,
    *,
    visit: Callable[[Tensor, int], object] | None = None,
) -> Tensor:
    """Return the latents at all levels (steps + 1, 1, c, h, w), noisiest first.

    Args:
        task: whose picture.
        up: (latents at level i + 1, i) to the latents at level i.
        fresh_steps: how many of the cleanest levels are reached by adding noise instead.
        visit: called with (latents at level i, i) of those levels, where the network would not be
            asked otherwise and what it says is wanted.

    Raises:
        ConfigError: no step would be left to invert.
    """
    steps = task.schedule.steps
    if fresh_steps >= steps:
        raise ConfigError(
            f"fresh_steps={fresh_steps} was given for a run of {steps} steps; accepted is 0 to "
            f"{steps - 1}."
        )
    path = [task.latents]
    eps = task.draw(1)[0] if fresh_steps else None
    with torch.no_grad():
        for level in reversed(range(steps)):
            if eps is not None and level >= steps - fresh_steps:
                path.append(task.schedule.noised(task.latents, eps, level))
                if visit is not None:
                    visit(path[-1], level)
            else:
                path.append(up(path[-1], level))
            task.done(level)
    return torch.stack(path[::-1])
