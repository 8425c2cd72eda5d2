"""Mutual self-attention (MasaCtrl) on SDXL, as a custom pipeline.

The first prompt is the source; all others read its keys and values. See README.md.
"""

from diffusers import StableDiffusionXLPipeline

from masactrl.methods.hub_pipeline import MasaCtrlCall


class MasaCtrlPipeline(MasaCtrlCall, StableDiffusionXLPipeline):
    """`StableDiffusionXLPipeline` whose prompts after the first show the subject of the first.

    Its call takes what that pipeline takes, and `start_step`, `start_layer`, `form`, `strength`.
    """
