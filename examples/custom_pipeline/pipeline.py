"""Mutual self-attention (MasaCtrl, ICCV 2023) as a custom pipeline of diffusers.

    pipe = DiffusionPipeline.from_pretrained(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        custom_pipeline="examples/custom_pipeline",
        trust_remote_code=True,  # this file is code; read it first
    )
    source, running, sitting = pipe(
        ["a corgi standing", "a corgi running", "a corgi sitting"],
        generator=torch.Generator().manual_seed(7),
    ).images

The first prompt is the source; all others read its keys and values. It needs `masactrl` installed,
and takes every other argument of `StableDiffusionPipeline`.
"""

import torch
from diffusers import StableDiffusionPipeline

from masactrl.attention import Rows, find_sites, preset
from masactrl.errors import ConfigError
from masactrl.methods import MasaCtrl


class MasaCtrlPipeline(StableDiffusionPipeline):
    """Stable Diffusion whose prompts after the first show the subject of the first."""

    def __call__(
        self, prompt=None, *args, start_step=None, start_layer=None, strength=1.0, **options
    ):
        """Make source and targets from the same start noise.

        Args:
            prompt: the source and at least one target; one text alone is a plain run.
            start_step: S, the first controlled step, 0 (the noisiest) and more; None is after the
                first 8 % of the steps, as in the paper (4 of 50).
            start_layer: L, the first controlled self-attention layer in execution order; None is
                the paper's 10.
            strength: of the control, 0 (none) to 1.
            args, options: as of `StableDiffusionPipeline`. `latents` are those of the source.
        """
        if prompt is None or isinstance(prompt, str) or len(prompt) < 2:
            if (start_step, start_layer, strength) != (None, None, 1.0):
                raise ConfigError("There is nothing to control: give a source and a target prompt.")
            return super().__call__(prompt, *args, **options)
        if args:
            raise ConfigError("Give everything after the prompts by name, such as height=512.")
        each = options.get("num_images_per_prompt") or 1
        latents = options.pop("latents", None)
        if latents is None:
            latents = self._noise(each, options)
        control = MasaCtrl(schedule=self._schedule(start_step, start_layer), strength=strength)
        rows = Rows.one_source(targets=len(prompt) - 1, images_per_prompt=each)
        with control.attach(self, rows, prompts=list(prompt)):
            return super().__call__(
                list(prompt), latents=latents.repeat(len(prompt), 1, 1, 1), **options
            )

    def _schedule(self, start_step, start_layer):
        found = preset(find_sites(self.unet))
        layer = found.start_layer if start_layer is None else start_layer
        when = {"fraction": found.fraction} if start_step is None else {"start_step": start_step}
        return type(found)(start_layer=layer, **when)

    def _noise(self, each, options):
        """Return the start noise of the source's pictures; drawn on the CPU unless told."""
        side = self.unet.config.sample_size * self.vae_scale_factor
        height, width = options.get("height") or side, options.get("width") or side
        shape = (each, self.unet.config.in_channels)
        shape += (height // self.vae_scale_factor, width // self.vae_scale_factor)
        generator = options.get("generator")
        place = "cpu" if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=place)
        return noise.to(self._execution_device, self.unet.dtype)
