"""Editing real pictures: requests, sessions, the run itself, and its results."""

from masactrl.editing.inversion_request import InversionRequest, draws_noise
from masactrl.editing.measure import Reconstruction, psnr
from masactrl.editing.plan import EditPlan, plan_edit
from masactrl.editing.request import EditMasks, EditRequest, ResolvedEdit
from masactrl.editing.result import EditedTarget, EditResult, edit_names
from masactrl.editing.session import EditSession
from masactrl.editing.stored import load_session

__all__ = [
    "EditMasks",
    "EditPlan",
    "EditRequest",
    "EditResult",
    "EditSession",
    "EditedTarget",
    "InversionRequest",
    "Reconstruction",
    "ResolvedEdit",
    "draws_noise",
    "edit_names",
    "load_session",
    "plan_edit",
    "psnr",
]
