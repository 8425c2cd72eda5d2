"""The control inside of a pipeline's own call, for custom pipelines of diffusers.

    class MasaCtrlPipeline(MasaCtrlCall, StableDiffusionXLPipeline): ...

The folders in `integrations/diffusers` are such pipelines, one a family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.networks import find_layers, network_of
from masactrl.attention.rows import Rows
from masactrl.attention.schedule import Schedule, preset
from masactrl.errors import ConfigError, ScheduleError
from masactrl.methods.masactrl import MasaCtrl

if TYPE_CHECKING:
    from masactrl.methods.mutual import Form

__all__ = ["MasaCtrlCall", "schedule_for"]


def schedule_for(pipeline: Any, start_step: int | None, start_layer: int | None) -> Schedule:
    """Steps and layers of a control on a pipeline; None is what the preset of its network says.

    A network of another size has no preset: S is after 8 % of the steps, and all layers are chosen.
    """
    _, network = network_of(pipeline)
    try:
        found = preset(find_layers(network))
    except ScheduleError:
        found = Schedule(fraction=(0.08, 1.0))
    if start_step is not None:
        found = replace(found, fraction=None, start_step=start_step)
    if start_layer is not None:
        found = replace(found, layers=None, start_layer=start_layer)
    return found


class MasaCtrlCall:
    """Goes before a text-to-image pipeline among the bases: prompts after the first read it."""

    def __call__(
        self: Any,
        prompt: str | list[str] | None = None,
        *args: Any,
        start_step: int | None = None,
        start_layer: int | None = None,
        form: Form = "replace",
        strength: float = 1.0,
        **options: Any,
    ) -> Any:
        """Make source and targets from the same start noise.

        Args:
            prompt: the source and at least one target; one text alone is a plain run.
            start_step: S, the first controlled step, 0 (the noisiest) and more; None is that of
                the network's preset.
            start_layer: L, the first controlled self-attention layer in execution order; None is
                that of the network's preset; see `masactrl.attention.preset`.
            form: "replace", or "union" to let targets also read themselves.
            strength: of the control, 0 (none) to 1.
            args, options: as of the pipeline. `latents` are those of the source.

        Raises:
            ConfigError: there is nothing to control, or an argument is not given by name.
        """
        call: Any = super().__call__  # type: ignore[misc]
        if prompt is None or isinstance(prompt, str) or len(prompt) < 2:
            if (start_step, start_layer, form, strength) != (None, None, "replace", 1.0):
                raise ConfigError("There is nothing to control: give a source and a target prompt.")
            return call(prompt, *args, **options)
        if args:
            raise ConfigError("Give everything after the prompts by name, such as height=512.")
        each = options.get("num_images_per_prompt") or 1
        noise = options.pop("latents", None)
        if noise is None:
            noise = _noise(self, each, options)
        if len(noise) != each:
            raise ConfigError(
                f"latents of {len(noise)} pictures were given for {each} of the source; all "
                "prompts start from those of the source, so give no more."
            )
        control = MasaCtrl(
            schedule=schedule_for(self, start_step, start_layer), form=form, strength=strength
        )
        rows = Rows.one_source(targets=len(prompt) - 1, images_per_prompt=each)
        latents = noise.repeat(len(prompt), *[1] * (noise.ndim - 1))
        with control.attach(self, rows, prompts=list(prompt)):
            return call(list(prompt), latents=latents, **options)


def _noise(pipeline: Any, each: int, options: dict[str, Any]) -> Tensor:
    """The start noise of the source's pictures; drawn on the CPU unless a generator says where."""
    family, found = network_of(pipeline)
    network: Any = found
    config = network.config
    packed = family.name == "flux"  # 2 x 2 cells are one token there
    factor = pipeline.vae_scale_factor
    side = getattr(pipeline, "default_sample_size", None) or config.sample_size
    sides = [options.get(name) or side * factor for name in ("height", "width")]
    rows, columns = (2 * (s // (2 * factor)) if packed else s // factor for s in sides)
    channels = config.in_channels // 4 if packed else config.in_channels
    generator = options.get("generator")
    if isinstance(generator, list):
        raise ConfigError("Give one generator: all prompts start from the noise of the source.")
    place = "cpu" if generator is None else generator.device
    noise = torch.randn((each, channels, rows, columns), generator=generator, device=place)
    noise = noise.to(pipeline._execution_device, network.dtype)
    if packed:
        noise = pipeline._pack_latents(noise, each, channels, rows, columns)
    return noise
