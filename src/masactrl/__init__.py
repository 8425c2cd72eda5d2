"""MasaCtrl: tuning-free mutual self-attention control, for today's diffusers.

    import masactrl

    model = masactrl.load_pipeline("puppets")
    result = masactrl.generate(model, masactrl.GenerateRequest(
        source_prompt="a cat standing in the meadow",
        target_prompts=("a cat running in the meadow",)))

Names are fetched from their modules when they are first used: torch and diffusers take seconds to
import, and `masactrl --help` needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from masactrl._version import __version__
from masactrl.errors import (
    ConfigError,
    ControlNotApplied,
    ControlWarning,
    MasaCtrlError,
    MaskError,
    MissingExtra,
    ModelNotFound,
    OutputError,
    PromptError,
    RowsError,
    ScheduleError,
    UnsupportedPipeline,
)

# Not fetched late like the others: the function has the name of its module, and would otherwise
# be the one or the other, depending on who imported what first.
from masactrl.generate import GenerateRequest, GenerateResult, generate

if TYPE_CHECKING:
    from masactrl.attention import Rows, Schedule
    from masactrl.auto import AutoResult, edit_auto
    from masactrl.compare import Comparison, compare_generated
    from masactrl.edit import (
        EditMasks,
        EditRequest,
        EditResult,
        EditSession,
        InversionRequest,
        invert,
        load_session,
    )
    from masactrl.methods import MasaCtrl
    from masactrl.models import LoadedModel, ModelPreset, load_pipeline
    from masactrl.scoring import load_scorer
    from masactrl.sweep import Axes, SweepResult, parse_axes, sweep_edit, sweep_generate

__all__ = [
    "AutoResult",
    "Axes",
    "Comparison",
    "ConfigError",
    "ControlNotApplied",
    "ControlWarning",
    "EditMasks",
    "EditRequest",
    "EditResult",
    "EditSession",
    "GenerateRequest",
    "GenerateResult",
    "InversionRequest",
    "LoadedModel",
    "MasaCtrl",
    "MasaCtrlError",
    "MaskError",
    "MissingExtra",
    "ModelNotFound",
    "ModelPreset",
    "OutputError",
    "PromptError",
    "Rows",
    "RowsError",
    "Schedule",
    "ScheduleError",
    "SweepResult",
    "UnsupportedPipeline",
    "__version__",
    "compare_generated",
    "edit_auto",
    "generate",
    "invert",
    "load_pipeline",
    "load_scorer",
    "load_session",
    "parse_axes",
    "sweep_edit",
    "sweep_generate",
]

_HOMES = {
    "AutoResult": "masactrl.auto",
    "Axes": "masactrl.sweep",
    "Comparison": "masactrl.compare",
    "EditMasks": "masactrl.edit",
    "EditRequest": "masactrl.edit",
    "EditResult": "masactrl.edit",
    "EditSession": "masactrl.edit",
    "InversionRequest": "masactrl.edit",
    "LoadedModel": "masactrl.models",
    "MasaCtrl": "masactrl.methods",
    "ModelPreset": "masactrl.models",
    "Rows": "masactrl.attention",
    "Schedule": "masactrl.attention",
    "SweepResult": "masactrl.sweep",
    "compare_generated": "masactrl.compare",
    "edit_auto": "masactrl.auto",
    "invert": "masactrl.edit",
    "load_pipeline": "masactrl.models",
    "load_scorer": "masactrl.scoring",
    "load_session": "masactrl.edit",
    "parse_axes": "masactrl.sweep",
    "sweep_edit": "masactrl.sweep",
    "sweep_generate": "masactrl.sweep",
}


def __getattr__(name: str) -> object:
    """Fetch a public name from its module on first use."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    """Show the public names, also those that were not fetched yet."""
    return sorted({*globals(), *__all__})
