"""Mutual self-attention (MasaCtrl) on Stable Diffusion 3 and 3.5, as a custom pipeline.

The first prompt is the source; all others read its keys and values. See README.md.
"""

from diffusers import StableDiffusion3Pipeline

from masactrl.methods.hub_pipeline import MasaCtrlCall


class MasaCtrlPipeline(MasaCtrlCall, StableDiffusion3Pipeline):
    """`StableDiffusion3Pipeline` whose prompts after the first show the subject of the first.

    Its call takes what that pipeline takes, and `start_step`, `start_layer`, `form`, `strength`.
    """
