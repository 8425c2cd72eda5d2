"""Mutual self-attention (MasaCtrl) on Stable Diffusion 1.x and 2.x, as a custom pipeline.

The first prompt is the source; all others read its keys and values. See README.md.
"""

from diffusers import StableDiffusionPipeline

from masactrl.methods.hub_pipeline import MasaCtrlCall


class MasaCtrlPipeline(MasaCtrlCall, StableDiffusionPipeline):
    """`StableDiffusionPipeline` whose prompts after the first show the subject of the first.

    Its call takes what that pipeline takes, and `start_step`, `start_layer`, `form`, `strength`.
    """
