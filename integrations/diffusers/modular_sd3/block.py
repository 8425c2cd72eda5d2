"""Mutual self-attention (MasaCtrl) on Stable Diffusion 3 and 3.5, as blocks of Modular Diffusers.

The first prompt is the source, drawn or a photo; the others show its subject. See README.md.
"""

from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.stable_diffusion_3.before_denoise import (
    StableDiffusion3PrepareLatentsStep,
    StableDiffusion3SetTimestepsStep,
)
from diffusers.modular_pipelines.stable_diffusion_3.decoders import StableDiffusion3DecodeStep
from diffusers.modular_pipelines.stable_diffusion_3.denoise import StableDiffusion3DenoiseStep
from diffusers.modular_pipelines.stable_diffusion_3.encoders import StableDiffusion3TextEncoderStep
from diffusers.modular_pipelines.stable_diffusion_3.inputs import StableDiffusion3TextInputStep
from diffusers.modular_pipelines.stable_diffusion_3.modular_blocks_stable_diffusion_3 import (
    StableDiffusion3AutoVaeEncoderStep,
)

from masactrl.methods.hub_blocks import MasaCtrlLoop, MasaCtrlSource, ReplaySource


class MasaCtrlSourceStep(MasaCtrlSource, StableDiffusion3DenoiseStep):
    """Gives all prompts the start of the source; of a photo, walks its path to noise."""

    model_name = "stable-diffusion-3"


class MasaCtrlDenoiseStep(MasaCtrlLoop, StableDiffusion3DenoiseStep):
    """The family's denoise loop under the control."""

    model_name = "stable-diffusion-3"
    block_classes = [*StableDiffusion3DenoiseStep.block_classes, ReplaySource]
    block_names = [*StableDiffusion3DenoiseStep.block_names, "replay"]


class MasaCtrlBlocks(SequentialPipelineBlocks):
    """Text to pictures, the two steps above among the family's own."""

    model_name = "stable-diffusion-3"
    block_classes = [
        StableDiffusion3TextEncoderStep,
        StableDiffusion3AutoVaeEncoderStep,
        StableDiffusion3TextInputStep,
        StableDiffusion3PrepareLatentsStep,
        StableDiffusion3SetTimestepsStep,
        MasaCtrlSourceStep,
        MasaCtrlDenoiseStep,
        StableDiffusion3DecodeStep,
    ]
    block_names = [
        "text_encoder",
        "vae_encoder",
        "input",
        "prepare_latents",
        "set_timesteps",
        "source",
        "denoise",
        "decode",
    ]

    @property
    def description(self):
        """One line for the blocks' help."""
        return "Pictures of one subject: prompts after the first read the first in self-attention."
