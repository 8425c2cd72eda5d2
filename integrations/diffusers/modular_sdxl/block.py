"""Mutual self-attention (MasaCtrl) on SDXL, as blocks of Modular Diffusers.

The first prompt is the source, drawn or a photo; the others show its subject. See README.md.
"""

from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.stable_diffusion_xl.before_denoise import (
    StableDiffusionXLInputStep,
    StableDiffusionXLPrepareAdditionalConditioningStep,
    StableDiffusionXLPrepareLatentsStep,
    StableDiffusionXLSetTimestepsStep,
)
from diffusers.modular_pipelines.stable_diffusion_xl.decoders import StableDiffusionXLDecodeStep
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLDenoiseStep
from diffusers.modular_pipelines.stable_diffusion_xl.encoders import (
    StableDiffusionXLTextEncoderStep,
)
from diffusers.modular_pipelines.stable_diffusion_xl.modular_blocks_stable_diffusion_xl import (
    StableDiffusionXLAutoVaeEncoderStep,
)

from masactrl.methods.hub_blocks import MasaCtrlLoop, MasaCtrlSource, ReplaySource


class MasaCtrlSourceStep(MasaCtrlSource, StableDiffusionXLDenoiseStep):
    """Gives all prompts the start of the source; of a photo, walks its path to noise."""

    model_name = "stable-diffusion-xl"


class MasaCtrlDenoiseStep(MasaCtrlLoop, StableDiffusionXLDenoiseStep):
    """The family's denoise loop under the control."""

    model_name = "stable-diffusion-xl"
    block_classes = [*StableDiffusionXLDenoiseStep.block_classes, ReplaySource]
    block_names = [*StableDiffusionXLDenoiseStep.block_names, "replay"]


class MasaCtrlBlocks(SequentialPipelineBlocks):
    """Text to pictures, the two steps above among the family's own."""

    model_name = "stable-diffusion-xl"
    block_classes = [
        StableDiffusionXLTextEncoderStep,
        StableDiffusionXLAutoVaeEncoderStep,
        StableDiffusionXLInputStep,
        StableDiffusionXLSetTimestepsStep,
        StableDiffusionXLPrepareLatentsStep,
        StableDiffusionXLPrepareAdditionalConditioningStep,
        MasaCtrlSourceStep,
        MasaCtrlDenoiseStep,
        StableDiffusionXLDecodeStep,
    ]
    block_names = [
        "text_encoder",
        "vae_encoder",
        "input",
        "set_timesteps",
        "prepare_latents",
        "prepare_add_cond",
        "source",
        "denoise",
        "decode",
    ]

    @property
    def description(self):
        """One line for the blocks' help."""
        return "Pictures of one subject: prompts after the first read the first in self-attention."
