r"""The control as blocks of Modular Diffusers, for any family of which it has a denoise loop.

    class SourceStep(MasaCtrlSource, StableDiffusionXLDenoiseStep): ...
    class DenoiseStep(MasaCtrlLoop, StableDiffusionXLDenoiseStep): ...

The first prompt is the source. `MasaCtrlSource` gives all prompts its start: its noise or, of a
photo, the end of its path to noise, walked by Euler steps up the scheduler's noise levels

    z_i = z_{i+1} + (sigma_i - sigma_{i+1}) d(z_{i+1}, sigma_i)

with d the network's prediction without guidance (noise, or in a flow the velocity). `MasaCtrlLoop`
runs the family's own loop under the control, and `ReplaySource` puts a photo's rows back on their
path after every step. The folders in `integrations/diffusers` hold the families' blocks.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam
from torch import Tensor

from masactrl.attention.rows import Rows
from masactrl.errors import ConfigError, UnsupportedPipeline
from masactrl.methods.hub_pipeline import schedule_for
from masactrl.methods.masactrl import MasaCtrl

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MasaCtrlLoop", "MasaCtrlSource", "ReplaySource"]

_COUNTS = (
    InputParam("batch_size", required=True, type_hint=int, description="How many prompts."),
    InputParam("num_images_per_prompt", default=1, type_hint=int),
)
_PATH = "source_path"


class MasaCtrlSource:
    """Goes before a family's denoise step among the bases; stands before it in the blocks."""

    @property
    def description(self) -> str:
        """One line for the blocks' help."""
        return "Gives all prompts the start of the first: its noise, or its photo's path to noise."

    @property
    def loop_inputs(self) -> list[InputParam]:
        """What it reads beside what the loop does."""
        inherited: list[InputParam] = super().loop_inputs  # type: ignore[misc]
        told = "A photo's latents (1, c, h, w); none for a source that is drawn."
        return [
            *inherited,
            *_COUNTS,
            InputParam("image_latents", type_hint=Tensor, description=told),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it writes."""
        return [
            OutputParam("latents", type_hint=Tensor, description="The start of every picture."),
            OutputParam(_PATH, type_hint=Tensor, description="(steps + 1, n, ...) of the photo."),
        ]

    def prepared(self, _components: Any, latents: Tensor) -> Tensor:
        """A photo's latents as the network gets them; FLUX packs them."""
        return latents

    @torch.no_grad()
    def __call__(self: Any, components: Any, state: Any) -> tuple[Any, Any]:
        """Put the start of the first prompt's pictures into all rows."""
        block = self.get_block_state(state)
        each, prompts = block.num_images_per_prompt, block.batch_size
        _check(prompts)
        start = block.latents[:each]
        block.source_path = None
        if block.image_latents is not None:
            clean = self.prepared(components, block.image_latents)
            if len(clean) not in (1, each) or clean.shape[1:] != start.shape[1:]:
                raise ConfigError(
                    f"The photo's latents are {tuple(clean.shape)}, the run's {tuple(start.shape)}"
                    "; give one photo and height and width of its size."
                )
            clean = clean.to(start).expand_as(start)
            block.source_path = self._inverted(components, block, clean, prompts)
            start = block.source_path[0]
        block.latents = start.repeat(prompts, *[1] * (start.ndim - 1))
        self.set_block_state(state, block)
        return components, state

    def _inverted(self: Any, components: Any, block: Any, clean: Tensor, prompts: int) -> Tensor:
        """(steps + 1, n, ...) the photo at every noise level, the noisiest first."""
        scheduler = components.scheduler
        kind = getattr(scheduler.config, "prediction_type", "epsilon")
        if not hasattr(scheduler, "sigmas") or kind != "epsilon":
            raise UnsupportedPipeline(
                f"A photo is inverted with Euler steps; the scheduler is a "
                f"{type(scheduler).__name__} that predicts {kind}. Use EulerDiscreteScheduler "
                "with epsilon, or FlowMatchEulerDiscreteScheduler."
            )
        sigmas = scheduler.sigmas.to(clean.device, torch.float32)
        walked = clean.float()
        path = [clean]
        steps = [block_ for name, block_ in self.sub_blocks.items() if name != "after_denoiser"]
        with _without_guidance(components):
            for i in reversed(range(len(block.timesteps))):
                scheduler._step_index = None
                block.latents = walked.to(clean).repeat(prompts, *[1] * (clean.ndim - 1))
                for step in steps:
                    step(components, block, i=i, t=block.timesteps[i])
                d = block.noise_pred[: len(clean)].float()
                walked = walked + (sigmas[i] - sigmas[i + 1]) * d
                path.append(walked.to(clean))
        scheduler._step_index = None
        return torch.stack(path[::-1])


class MasaCtrlLoop:
    """Goes before a family's denoise step among the bases: its loop, under the control."""

    @property
    def loop_inputs(self) -> list[InputParam]:
        """What it reads beside what the loop does."""
        inherited: list[InputParam] = super().loop_inputs  # type: ignore[misc]
        own = [
            InputParam("start_step", type_hint=int, description="S; None is after 8 % of them."),
            InputParam("start_layer", type_hint=int, description="L; None is what is published."),
            InputParam("form", default="replace", type_hint=str, description="Or union."),
            InputParam("strength", default=1.0, type_hint=float, description="0 to 1."),
        ]
        return [*inherited, *_COUNTS, *own]

    @torch.no_grad()
    def __call__(self: Any, components: Any, state: Any) -> tuple[Any, Any]:
        """Run the family's loop; every prompt after the first reads the first."""
        block = self.get_block_state(state)
        _check(block.batch_size)
        rows = Rows.one_source(
            targets=block.batch_size - 1, images_per_prompt=block.num_images_per_prompt
        )
        control = MasaCtrl(
            schedule=schedule_for(components, block.start_step, block.start_layer),
            form=block.form,
            strength=block.strength,
        )
        with control.attach(components, rows):
            made: tuple[Any, Any] = super().__call__(components, state)  # type: ignore[misc]
        return made


class ReplaySource(ModularPipelineBlocks):  # type: ignore[misc]  # untyped
    """The last block of the loop: a photo's rows are on their path again."""

    @property
    def description(self) -> str:
        """One line for the blocks' help."""
        return "Puts the photo's rows on their path after a step."

    @property
    def inputs(self) -> list[InputParam]:
        """The photo's path; None where the source is drawn."""
        return [InputParam(_PATH, type_hint=Tensor)]

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, **_: Any) -> tuple[Any, Any]:
        """Replace the first rows by the path at the level after step i."""
        if block_state.source_path is not None:
            level = block_state.source_path[i + 1]
            rest = block_state.latents[len(level) :]
            block_state.latents = torch.cat([level.to(rest), rest])
        return components, block_state


def _check(prompts: int) -> None:
    if prompts < 2:
        raise ConfigError(
            "There is nothing to control: give a source and a target prompt, as a list."
        )


@contextmanager
def _without_guidance(components: Any) -> Iterator[None]:
    """Switch the guider off inside of the block, where the family has one."""
    guider = getattr(components, "guider", None)
    was = getattr(guider, "_enabled", None)
    try:
        if was:
            guider.disable()  # type: ignore[union-attr]
        yield
    finally:
        if was:
            guider.enable()  # type: ignore[union-attr]
