"""Published editing methods, one file each, all behind `Method`.

Names are fetched on first use: `mutual`, the equations, needs torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masactrl.settings.on_demand import on_demand

if TYPE_CHECKING:
    from masactrl.methods.blended_latent import BlendedLatent
    from masactrl.methods.consistedit import ConsistEdit
    from masactrl.methods.fixed_seed import FixedSeed
    from masactrl.methods.flowedit import FlowEdit
    from masactrl.methods.imagic import Imagic
    from masactrl.methods.local_blend import LocalBlend
    from masactrl.methods.masactrl import MasaCtrl
    from masactrl.methods.method import Handle, Method, Parts, Start
    from masactrl.methods.mutual import Form, mutual_self_attention
    from masactrl.methods.plug_and_play import PlugAndPlay
    from masactrl.methods.prompt_to_prompt import PromptToPrompt
    from masactrl.methods.registry import METHODS, method_named, methods_of
    from masactrl.methods.rf_edit import RFEdit
    from masactrl.methods.sdedit import SDEdit
    from masactrl.methods.style_aligned import StyleAligned
    from masactrl.methods.unified import Unified

__all__ = [
    "METHODS",
    "BlendedLatent",
    "ConsistEdit",
    "FixedSeed",
    "FlowEdit",
    "Form",
    "Handle",
    "Imagic",
    "LocalBlend",
    "MasaCtrl",
    "Method",
    "Parts",
    "PlugAndPlay",
    "PromptToPrompt",
    "RFEdit",
    "SDEdit",
    "Start",
    "StyleAligned",
    "Unified",
    "method_named",
    "methods_of",
    "mutual_self_attention",
]

_HOMES = {
    "BlendedLatent": "masactrl.methods.blended_latent",
    "ConsistEdit": "masactrl.methods.consistedit",
    "FixedSeed": "masactrl.methods.fixed_seed",
    "FlowEdit": "masactrl.methods.flowedit",
    "Form": "masactrl.methods.mutual",
    "Handle": "masactrl.methods.method",
    "Imagic": "masactrl.methods.imagic",
    "LocalBlend": "masactrl.methods.local_blend",
    "METHODS": "masactrl.methods.registry",
    "MasaCtrl": "masactrl.methods.masactrl",
    "Method": "masactrl.methods.method",
    "Parts": "masactrl.methods.method",
    "PlugAndPlay": "masactrl.methods.plug_and_play",
    "PromptToPrompt": "masactrl.methods.prompt_to_prompt",
    "RFEdit": "masactrl.methods.rf_edit",
    "SDEdit": "masactrl.methods.sdedit",
    "Start": "masactrl.methods.method",
    "StyleAligned": "masactrl.methods.style_aligned",
    "Unified": "masactrl.methods.unified",
    "method_named": "masactrl.methods.registry",
    "methods_of": "masactrl.methods.registry",
    "mutual_self_attention": "masactrl.methods.mutual",
}

__getattr__ = on_demand(__name__, _HOMES)
