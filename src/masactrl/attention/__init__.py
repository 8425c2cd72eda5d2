"""How a control reaches the layers of a U-Net; knows steps, layers and rows, but no paper."""

from masactrl.attention.attach import attach
from masactrl.attention.call import Control, Layer, LayerCall
from masactrl.attention.conditions import without_condition
from masactrl.attention.features import SourceCache
from masactrl.attention.layers import PLACES, Place, Site, find_sites
from masactrl.attention.masks import GivenMasks, WordMasks
from masactrl.attention.report import Attached, RunReport
from masactrl.attention.rows import BatchRows, Part, Rows
from masactrl.attention.schedule import PRESETS, SDXL_START_LAYERS, Schedule, Window, preset
from masactrl.attention.steps import Clock, Tick
from masactrl.attention.words import check_prompt, token_numbers

__all__ = [
    "PLACES",
    "PRESETS",
    "SDXL_START_LAYERS",
    "Attached",
    "BatchRows",
    "Clock",
    "Control",
    "GivenMasks",
    "Layer",
    "LayerCall",
    "Part",
    "Place",
    "Rows",
    "RunReport",
    "Schedule",
    "Site",
    "SourceCache",
    "Tick",
    "Window",
    "WordMasks",
    "attach",
    "check_prompt",
    "find_sites",
    "preset",
    "token_numbers",
    "without_condition",
]
