"""How a control reaches the layers of a network; knows steps, layers and rows, but no paper.

Names are fetched on first use: `rows`, `schedule` and `call` need torch alone, the rest diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masactrl.settings.on_demand import on_demand

if TYPE_CHECKING:
    from masactrl.attention.attachment import attach
    from masactrl.attention.call import Control, Layer, LayerCall
    from masactrl.attention.conditions import without_condition
    from masactrl.attention.features import SourceFeatures
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.masks import GivenMasks, WordMasks
    from masactrl.attention.networks import (
        FAMILIES,
        DenoiserCall,
        Network,
        find_layers,
        network_of,
    )
    from masactrl.attention.positions import Policy, Positions
    from masactrl.attention.report import Attached, RunReport
    from masactrl.attention.rows import BatchRows, Part, Rows
    from masactrl.attention.schedule import (
        PLACES,
        PRESETS,
        SDXL_START_LAYERS,
        Place,
        Schedule,
        Window,
        preset,
    )
    from masactrl.attention.steps import StepInfo, StepTracker
    from masactrl.attention.words import check_prompt, token_numbers

__all__ = [
    "FAMILIES",
    "PLACES",
    "PRESETS",
    "SDXL_START_LAYERS",
    "Attached",
    "AttentionLayer",
    "BatchRows",
    "Control",
    "DenoiserCall",
    "GivenMasks",
    "Layer",
    "LayerCall",
    "Network",
    "Part",
    "Place",
    "Policy",
    "Positions",
    "Rows",
    "RunReport",
    "Schedule",
    "SourceFeatures",
    "StepInfo",
    "StepTracker",
    "Window",
    "WordMasks",
    "attach",
    "check_prompt",
    "find_layers",
    "network_of",
    "preset",
    "token_numbers",
    "without_condition",
]

_HOMES = {
    "Attached": "masactrl.attention.report",
    "BatchRows": "masactrl.attention.rows",
    "StepTracker": "masactrl.attention.steps",
    "Control": "masactrl.attention.call",
    "DenoiserCall": "masactrl.attention.networks",
    "FAMILIES": "masactrl.attention.networks",
    "GivenMasks": "masactrl.attention.masks",
    "Layer": "masactrl.attention.call",
    "LayerCall": "masactrl.attention.call",
    "Network": "masactrl.attention.networks",
    "PLACES": "masactrl.attention.schedule",
    "PRESETS": "masactrl.attention.schedule",
    "Part": "masactrl.attention.rows",
    "Place": "masactrl.attention.schedule",
    "Policy": "masactrl.attention.positions",
    "Positions": "masactrl.attention.positions",
    "Rows": "masactrl.attention.rows",
    "RunReport": "masactrl.attention.report",
    "SDXL_START_LAYERS": "masactrl.attention.schedule",
    "Schedule": "masactrl.attention.schedule",
    "AttentionLayer": "masactrl.attention.layers",
    "SourceFeatures": "masactrl.attention.features",
    "StepInfo": "masactrl.attention.steps",
    "Window": "masactrl.attention.schedule",
    "WordMasks": "masactrl.attention.masks",
    "attach": "masactrl.attention.attachment",
    "check_prompt": "masactrl.attention.words",
    "find_layers": "masactrl.attention.networks",
    "network_of": "masactrl.attention.networks",
    "preset": "masactrl.attention.schedule",
    "token_numbers": "masactrl.attention.words",
    "without_condition": "masactrl.attention.conditions",
}

_RENAMED = {
    "Clock": "StepTracker",
    "Site": "AttentionLayer",
    "SourceCache": "SourceFeatures",
    "Tick": "StepInfo",
    "find_sites": "find_layers",
}

__getattr__ = on_demand(__name__, _HOMES, renamed=_RENAMED)
