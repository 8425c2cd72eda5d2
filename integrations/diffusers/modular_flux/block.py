"""Mutual self-attention (MasaCtrl) on FLUX.1, as blocks of Modular Diffusers.

The first prompt is the source, drawn or a photo; the others show its subject. See README.md.
"""

from diffusers import FluxPipeline
from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.flux.before_denoise import (
    FluxPrepareLatentsStep,
    FluxRoPEInputsStep,
    FluxSetTimestepsStep,
)
from diffusers.modular_pipelines.flux.decoders import FluxDecodeStep, FluxUnpackLatentsStep
from diffusers.modular_pipelines.flux.denoise import FluxDenoiseStep
from diffusers.modular_pipelines.flux.encoders import FluxTextEncoderStep
from diffusers.modular_pipelines.flux.inputs import FluxTextInputStep
from diffusers.modular_pipelines.flux.modular_blocks_flux import FluxAutoVaeEncoderStep

from masactrl.methods.hub_blocks import MasaCtrlLoop, MasaCtrlSource, ReplaySource


class MasaCtrlSourceStep(MasaCtrlSource, FluxDenoiseStep):
    """Gives all prompts the start of the source; of a photo, walks its path to noise."""

    model_name = "flux"

    def prepared(self, components, latents):
        """Two by two cells are one token."""
        count, channels, height, width = latents.shape
        return FluxPipeline._pack_latents(latents, count, channels, height, width)


class MasaCtrlDenoiseStep(MasaCtrlLoop, FluxDenoiseStep):
    """The family's denoise loop under the control."""

    model_name = "flux"
    block_classes = [*FluxDenoiseStep.block_classes, ReplaySource]
    block_names = [*FluxDenoiseStep.block_names, "replay"]


class MasaCtrlBlocks(SequentialPipelineBlocks):
    """Text to pictures, the two steps above among the family's own."""

    model_name = "flux"
    block_classes = [
        FluxTextEncoderStep,
        FluxAutoVaeEncoderStep,
        FluxTextInputStep,
        FluxPrepareLatentsStep,
        FluxSetTimestepsStep,
        FluxRoPEInputsStep,
        MasaCtrlSourceStep,
        MasaCtrlDenoiseStep,
        FluxUnpackLatentsStep,
        FluxDecodeStep,
    ]
    block_names = [
        "text_encoder",
        "vae_encoder",
        "input",
        "prepare_latents",
        "set_timesteps",
        "prepare_rope_inputs",
        "source",
        "denoise",
        "unpack_latents",
        "decode",
    ]

    @property
    def description(self):
        """One line for the blocks' help."""
        return "Pictures of one subject: prompts after the first read the first in self-attention."
