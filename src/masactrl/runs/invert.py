"""The door to editing real pictures: invert once, edit many.

session = invert(model, "corgi.jpg")
result = session.edit(EditRequest(target_prompts=("a photo of a running corgi",)))
"""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from masactrl.errors import ControlWarning
from masactrl.inversion import InversionTask
from masactrl.models.denoiser import Denoiser
from masactrl.models.drawing import first_level_warning
from masactrl.models.loading import ddim_like
from masactrl.models.origin import file_hash
from masactrl.pictures.images import image_to_tensor
from masactrl.pictures.input import PIXEL_LIMIT, frame, read_picture
from masactrl.runs.cost import EditPlan, check_inversion, plan_edit, records_on_the_way
from masactrl.runs.edit_request import EditMasks, EditRequest
from masactrl.runs.edit_result import EditResult
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.method_choice import as_walked
from masactrl.runs.recipe import InputStated
from masactrl.runs.recording import RecordedSource, RecordingKey, recorded_on_the_way
from masactrl.runs.running import running
from masactrl.runs.session import EditSession, tell_steps
from masactrl.runs.session_file import load_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.generate import StepRecord

__all__ = [
    "EditMasks",
    "EditRequest",
    "EditResult",
    "EditSession",
    "InversionRequest",
    "invert",
    "load_session",
    "plan",
]


def invert(
    model: LoadedModel,
    picture: Path | str | Image.Image,
    request: InversionRequest | None = None,
    *,
    edit: EditRequest | None = None,
    limit: int = PIXEL_LIMIT,
    on_step: Callable[[StepRecord], None] | None = None,
) -> EditSession:
    """Find the noise that a picture comes from, and the way there; edits start from it.

    The model's pipeline is left as it was.

    Args:
        model: what `load_pipeline` returns.
        picture: a file, or a picture that is open already.
        request: how; None is direct inversion with a null prompt and the model's own steps.
        edit: that will follow. Where the inversion can (one-pass, fixed-point with replay, direct
            where its mode is ahead), what its targets read of the source is recorded on the way,
            which saves a pass.
        limit: pixels above which the picture is refused.
        on_step: called after each step, the noisiest last; an exception raised there ends it.

    Raises:
        ConfigError: the picture cannot be read, or a setting does not fit the model.
        UnsupportedPipeline: the model cannot be inverted.
        MasaCtrlError: the model made NaN or infinite values, as some do in float16.

    Warns:
        ControlWarning: so many steps begin far from pure noise.
    """
    request = request or InversionRequest()
    with running(model, request):
        return _inverted(model, picture, request, edit, limit, on_step)


def _inverted(
    model: LoadedModel,
    picture: Path | str | Image.Image,
    request: InversionRequest,
    edit: EditRequest | None,
    limit: int,
    on_step: Callable[[StepRecord], None] | None,
) -> EditSession:
    check_inversion(model, request)
    opened = read_picture(picture, limit=limit)
    native = model.preset.width, model.preset.height
    denoiser = Denoiser(model.pipeline)
    framing = frame(opened.size, native=native, multiple=denoiser.multiple, fit=request.fit)
    method, steps = request.build(), request.steps or model.preset.steps
    if denoiser.kind == "diffusion":
        scheduler = ddim_like(model.pipeline.scheduler)
        for note in first_level_warning(scheduler, steps, spacing=method.spacing):
            warnings.warn(note, ControlWarning, stacklevel=3)
    started = time.perf_counter()
    latent = framing.padded[1] // denoiser.factor, framing.padded[0] // denoiser.factor
    schedule = denoiser.schedule(steps, spacing=method.spacing, size=latent)
    pixels = image_to_tensor(framing.enter(opened))[None]  # 1 3 h w in [-1, 1]
    task = InversionTask(
        denoiser=denoiser,
        schedule=schedule,
        latents=denoiser.encode_image(pixels),
        prompt=request.source_prompt,
        guidance=request.guidance(model.preset),
        seed=request.seed or 0,
        on_step=tell_steps(on_step, schedule.steps),
    )
    key = _key(model, request, edit, schedule.steps)
    recorder = recorded_on_the_way(denoiser, model.pipeline, schedule, key) if key else None
    with recorder or nullcontext() as cache:
        trajectory = method(task)
    if request.replay is not None:
        trajectory = replace(trajectory, replay=request.replay)
    recordings = []
    if key is not None and cache is not None:
        path = trajectory.latents.to(denoiser.device)
        recordings.append(
            RecordedSource(key=key, cache=cache, path=path, errors=None, passes=0, seconds=0.0)
        )
    return EditSession(
        model=model,
        picture=opened,
        framing=framing,
        trajectory=trajectory,
        request=request,
        stated=_stated(picture),
        passes=denoiser.passes,
        seconds=time.perf_counter() - started,
        _recordings=recordings,
    )


def _key(
    model: LoadedModel, request: InversionRequest, edit: EditRequest | None, steps: int
) -> RecordingKey | None:
    """What is recorded while inverting; nothing where there is no edit, or the source cannot be."""
    settings = None if edit is None else edit.resolve(model.preset, steps)
    if settings is None or not records_on_the_way(
        request, settings, request.guidance(model.preset)
    ):
        return None
    key = RecordingKey.needed(settings, one_branch=request.one_branch)
    return replace(key, near=request.build().visits == "near")


def plan(
    model: LoadedModel,
    picture: Path | str | Image.Image,
    inversion: InversionRequest,
    request: EditRequest,
    *,
    limit: int = PIXEL_LIMIT,
    ahead: bool = False,
) -> EditPlan:
    """Return what inversion and edit of a picture will cost; nothing is run.

    Args:
        model: what `load_pipeline` returns.
        picture: a file, or a picture that is open already.
        inversion: how it will be inverted.
        request: the edit.
        limit: pixels above which the picture is refused.
        ahead: whether `invert` is told the edit.

    Raises:
        ConfigError: the picture cannot be read.
        ScheduleError: S or L is beyond the steps of the run or the layers of the model.
    """
    size = read_picture(picture, limit=limit).size
    native = model.preset.width, model.preset.height
    multiple = Denoiser(model.pipeline).multiple
    framing = frame(size, native=native, multiple=multiple, fit=inversion.fit)
    settings = request.resolve(model.preset, inversion.steps or model.preset.steps)
    settings = as_walked(settings, inversion.build().rule)
    guided = settings.guidance_scale != 1 or inversion.guidance(model.preset) != 1
    branches = 2 if guided and not inversion.one_branch else 1
    return plan_edit(
        model,
        inversion,
        settings,
        framing.padded,
        branches=branches,
        recorded=ahead
        and records_on_the_way(inversion, settings, inversion.guidance(model.preset)),
    )


def _stated(picture: Path | str | Image.Image) -> tuple[InputStated, ...]:
    """Return what recipes say of the input; nothing of a picture that was open already."""
    if not isinstance(picture, (str, Path)):
        return ()
    path = Path(picture)
    return (InputStated(name=path.name, hash=file_hash(path)),)
