"""Mutual self-attention (MasaCtrl) on FLUX.1, as a custom pipeline.

The first prompt is the source; all others read its keys and values. See README.md.
"""

from diffusers import FluxPipeline

from masactrl.methods.hub_pipeline import MasaCtrlCall


class MasaCtrlPipeline(MasaCtrlCall, FluxPipeline):
    """`FluxPipeline` whose prompts after the first show the subject of the first.

    Its call takes what that pipeline takes, and `start_step`, `start_layer`, `form`, `strength`.
    """
