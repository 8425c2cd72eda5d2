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
from masactrl.settings.old_names import answer_to_old_names
from masactrl.settings.on_demand import on_demand

if TYPE_CHECKING:
    from masactrl.attention import Rows, Schedule
    from masactrl.batch.options import BatchOptions
    from masactrl.batch.run import BatchOutcome, run_batch
    from masactrl.methods import MasaCtrl
    from masactrl.models import LoadedModel, ModelPreset, load_pipeline, model_of
    from masactrl.runs.edit_request import EditMasks, EditRequest
    from masactrl.runs.edit_result import EditResult
    from masactrl.runs.generate import generate
    from masactrl.runs.inversion_request import InversionRequest
    from masactrl.runs.invert import invert
    from masactrl.runs.layout import Layout
    from masactrl.runs.request import GenerateRequest
    from masactrl.runs.result import GenerateResult
    from masactrl.runs.session import EditSession
    from masactrl.runs.session_file import load_session
    from masactrl.studies.animate import Animation, animate
    from masactrl.studies.auto import AutoResult, edit_auto
    from masactrl.studies.axes import Axes, parse_axes
    from masactrl.studies.compare import Comparison, compare_generated
    from masactrl.studies.scoring import load_scorer
    from masactrl.studies.sweep import sweep_edit, sweep_generate
    from masactrl.studies.sweep_result import SweepResult

__all__ = [
    "Animation",
    "AutoResult",
    "Axes",
    "BatchOptions",
    "BatchOutcome",
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
    "Layout",
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
    "animate",
    "compare_generated",
    "edit_auto",
    "generate",
    "invert",
    "load_pipeline",
    "load_scorer",
    "load_session",
    "model_of",
    "parse_axes",
    "run_batch",
    "sweep_edit",
    "sweep_generate",
]

_HOMES = {
    "Animation": "masactrl.studies.animate",
    "AutoResult": "masactrl.studies.auto",
    "Axes": "masactrl.studies.axes",
    "BatchOptions": "masactrl.batch.options",
    "BatchOutcome": "masactrl.batch.run",
    "Comparison": "masactrl.studies.compare",
    "EditMasks": "masactrl.runs.edit_request",
    "EditRequest": "masactrl.runs.edit_request",
    "EditResult": "masactrl.runs.edit_result",
    "EditSession": "masactrl.runs.session",
    "GenerateRequest": "masactrl.runs.request",
    "GenerateResult": "masactrl.runs.result",
    "InversionRequest": "masactrl.runs.inversion_request",
    "Layout": "masactrl.runs.layout",
    "LoadedModel": "masactrl.models",
    "MasaCtrl": "masactrl.methods",
    "ModelPreset": "masactrl.models",
    "Rows": "masactrl.attention",
    "Schedule": "masactrl.attention",
    "SweepResult": "masactrl.studies.sweep_result",
    "animate": "masactrl.studies.animate",
    "compare_generated": "masactrl.studies.compare",
    "edit_auto": "masactrl.studies.auto",
    "generate": "masactrl.runs.generate",
    "invert": "masactrl.runs.invert",
    "load_pipeline": "masactrl.models",
    "load_scorer": "masactrl.studies.scoring",
    "load_session": "masactrl.runs.session_file",
    "model_of": "masactrl.models",
    "parse_axes": "masactrl.studies.axes",
    "run_batch": "masactrl.batch.run",
    "sweep_edit": "masactrl.studies.sweep",
    "sweep_generate": "masactrl.studies.sweep",
}

answer_to_old_names()


__getattr__ = on_demand(__name__, _HOMES)


def __dir__() -> list[str]:
    """Show the public names, also those that were not fetched yet."""
    return sorted({*globals(), *__all__})
