r"""Layouts at work: what ControlNets and T2I-Adapters add to the U-Net, row by row of the batch.

    eps(z_t, t, c)  ->  eps(z_t, t, c, r)
    ControlNet          r = scale * ControlNet(z_t, t, c, layout)
    T2I-Adapter         r = scale * Adapter(layout), the same at every step

One hook on the U-Net computes r for the rows that have a layout; rows without one get zeros, as the
paper's code gives its real source. The pipeline and its class stay what they are, so that every
loop that calls this U-Net is led alike, and a ControlNet's own attention is never controlled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ControlNetModel, T2IAdapter
from diffusers.hooks.hooks import ModelHook
from torch import Tensor

from masactrl.attention.observing import installed
from masactrl.attention.steps import StepTracker
from masactrl.attention.support import denoiser_of
from masactrl.errors import ConfigError, ControlNotApplied, RowsError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

__all__ = ["Guide", "attach_layouts"]

_DOWN = "down_block_additional_residuals"
_MIDDLE = "mid_block_additional_residual"
_INSIDE = "down_intrablock_additional_residuals"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guide:
    """One network and what it is shown.

    Attributes:
        network: a ControlNet or a T2I-Adapter of the U-Net's family, on its device.
        pictures: (channels, height, width) in [0, 1] for each image of a guidance branch, None for
            images that get nothing.
        scale: weight of what the network adds, 0 and more.
        begin, end: the part of the run's steps at which it acts, 0 <= begin < end <= 1.

    Raises:
        ConfigError: a number is out of range, there is no picture, or they differ in shape.
    """

    network: ControlNetModel | T2IAdapter
    pictures: tuple[Tensor | None, ...]
    scale: float = 1.0
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise ConfigError(
                f"A layout from {self.begin} to {self.end} of the steps was asked for; the begin "
                "lies before the end, both in 0 to 1."
            )
        if self.scale < 0:
            raise ConfigError(f"scale={self.scale} was given; accepted is 0 and more.")
        shapes = {tuple(one.shape) for one in self.pictures if one is not None}
        if len(shapes) != 1:
            said = "No picture was" if not shapes else "Pictures of several shapes were"
            raise ConfigError(f"{said} given to a layout; give pictures of one shape.")

    def acts(self, step: int, steps: int) -> bool:
        """Whether it acts at a step of a run, as diffusers' own pipelines count."""
        return not (step / steps < self.begin or (step + 1) / steps > self.end)


@contextmanager
def attach_layouts(
    pipeline: DiffusionPipeline, guides: Sequence[Guide], *, images: int
) -> Iterator[None]:
    """Let layouts lead the pipeline's U-Net inside the `with` block.

    Args:
        pipeline: with a U-Net; left as it was.
        guides: all act together, what they add is summed.
        images: rows of one guidance branch, as for `Rows`.

    Raises:
        ConfigError: a guide has pictures for another number of images.
        UnsupportedPipeline: there is no U-Net.
        ControlNotApplied: the U-Net was called, and at no step did a layout act.
    """
    for guide in guides:
        if len(guide.pictures) != images:
            raise ConfigError(
                f"A layout has pictures for {len(guide.pictures)} images and the run has {images}."
            )
    hook = _Layouts(pipeline, tuple(guides), images)
    with installed([(denoiser_of(pipeline), hook)]):
        yield
        hook.conclude()


class _Layouts(ModelHook):
    """Adds what the guides say to the residuals of every call."""

    def __init__(self, pipeline: DiffusionPipeline, guides: tuple[Guide, ...], images: int) -> None:
        super().__init__()
        self._pipeline, self._guides, self._images = pipeline, guides, images
        self._tracker = StepTracker()
        self._features: dict[int, list[Tensor]] = {}
        self._called = self._acted = False

    def conclude(self) -> None:
        """Complain when layouts were attached and never acted."""
        if self._called and not self._acted and self._guides:
            raise ControlNotApplied(
                "No step of the run lay in the part at which a layout acts; widen it, or take more "
                "steps."
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """The same inputs, with what the layouts add."""
        names = ("sample", "timestep", "encoder_hidden_states")
        given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        sample, timestep = given["sample"], given["timestep"]
        info = self._tracker.step_of(timestep, getattr(self._pipeline, "scheduler", None))
        branches, uneven = divmod(sample.shape[0], self._images)
        if uneven:
            raise RowsError(
                f"The denoiser got {sample.shape[0]} rows, no multiple of the {self._images} "
                "images that the layouts were told of."
            )
        self._called = True
        for number, guide in enumerate(self._guides):
            if not guide.acts(info.step, len(info.timesteps)):
                continue
            self._acted = True
            chosen = [k for k, picture in enumerate(guide.pictures) if picture is not None]
            rows = [branch * self._images + k for branch in range(branches) for k in chosen]
            index = torch.tensor(rows, device=sample.device)
            if isinstance(guide.network, ControlNetModel):
                self._control(guide, given, index, branches)
            else:
                self._adapt(number, guide, given, index, branches)
        return args, {
            name: value for name, value in given.items() if name not in names[: len(args)]
        }

    def _control(self, guide: Guide, given: dict[str, Any], index: Tensor, branches: int) -> None:
        sample, network = given["sample"], guide.network
        shown = _stacked(guide, network).repeat(branches, 1, 1, 1)
        timestep = given["timestep"]
        if isinstance(timestep, Tensor) and timestep.ndim > 0 and len(timestep) > 1:
            timestep = timestep[index]
        extra: Mapping[str, Tensor] | None = given.get("added_cond_kwargs")
        down, middle = network(
            sample[index],
            timestep,
            encoder_hidden_states=given["encoder_hidden_states"][index],
            controlnet_cond=shown,
            conditioning_scale=guide.scale,
            added_cond_kwargs=None if not extra else {k: v[index] for k, v in extra.items()},
            return_dict=False,
        )
        spread = [_spread(one, index, len(sample)) for one in down]
        before = given.get(_DOWN)
        given[_DOWN] = (
            tuple(spread)
            if before is None
            else tuple(a + b for a, b in zip(before, spread, strict=True))
        )
        middle = _spread(middle, index, len(sample))
        given[_MIDDLE] = middle if given.get(_MIDDLE) is None else given[_MIDDLE] + middle

    def _adapt(
        self, number: int, guide: Guide, given: dict[str, Any], index: Tensor, branches: int
    ) -> None:
        if number not in self._features:
            with torch.no_grad():
                made = guide.network(_stacked(guide, guide.network))
            self._features[number] = [one * guide.scale for one in made]
        sample = given["sample"]
        spread = [
            _spread(one.repeat(branches, 1, 1, 1).to(sample), index, len(sample))
            for one in self._features[number]
        ]
        before = given.get(_INSIDE)
        # The U-Net empties the list that it is given.
        given[_INSIDE] = (
            spread if before is None else [a + b for a, b in zip(before, spread, strict=True)]
        )


def _stacked(guide: Guide, network: Any) -> Tensor:
    """(n, channels, height, width) of the images that have a layout."""
    parameter = next(network.parameters())
    shown = torch.stack([one for one in guide.pictures if one is not None])
    return shown.to(device=parameter.device, dtype=parameter.dtype)


def _spread(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """(len(index), ...) -> (rows, ...), zeros where ``index`` does not point."""
    if len(values) == rows:
        return values
    return values.new_zeros(rows, *values.shape[1:]).index_copy(0, index, values)
