"""A session on the disk: one file, and the reasons why it may not be used."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from masactrl._version import __version__
from masactrl.diffusion import Trajectory
from masactrl.errors import ConfigError, OutputError
from masactrl.models.denoiser import Denoiser
from masactrl.models.fingerprint import fingerprint, same_model
from masactrl.pictures.input import Framing
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.recipe import InputStated
from masactrl.runs.session import EditSession
from masactrl.runs.session_arrays import read_bundle, write_bundle
from masactrl.settings.old_names import present_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from masactrl.models import LoadedModel

__all__ = ["load_session", "save_session"]

_SCHEMA = 1


def save_session(session: EditSession, path: Path, *, overwrite: bool = False) -> Path:
    """Write the session, without recorded features, as one `.safetensors`; return its path.

    Raises:
        OutputError: it cannot be written, or would replace a file.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} is there already; choose another name or allow overwriting.")
    pipeline = session.model.pipeline
    tensors = {
        **session.trajectory.tensors(),
        "picture": torch.from_numpy(np.array(session.picture)),
        "fingerprint": fingerprint(pipeline),
    }
    recipe = {
        "schema": _SCHEMA,
        "masactrl": __version__,
        "model": session.model.name,
        "revision": session.model.origin.revision,
        "dtype": session.model.dtype,
        "framing": asdict(session.framing),
        "inputs": [asdict(one) for one in session.stated],
        "inversion": asdict(session.request),
        "trajectory": session.trajectory.recipe(),
    }
    write_bundle(path, tensors, recipe)
    return path


def load_session(path: Path, model: LoadedModel) -> EditSession:
    """Return the session that `EditSession.save` wrote.

    Args:
        path: the file.
        model: the model that made it, in any precision.

    Raises:
        ConfigError: the file is missing, damaged or altered, or the model, its noise schedule or
            the format is another one; says which.
    """
    tensors, recipe = read_bundle(path)
    if recipe.get("schema") != _SCHEMA:
        raise ConfigError(
            f"{path} has the format {recipe.get('schema')}, this version reads {_SCHEMA}; invert "
            "the picture anew."
        )
    marks, here = tensors.pop("fingerprint"), fingerprint(model.pipeline)
    if not same_model(marks, here, same_dtype=model.dtype == recipe["dtype"]):
        raise ConfigError(
            f"{path} was made with the model {_named(recipe['model'], recipe['revision'])}, and "
            f"{_named(model.name, model.origin.revision)} has other weights (another model, "
            "revision or LoRA); load that one or invert the picture anew."
        )
    request = InversionRequest(**present_names(InversionRequest, recipe["inversion"]))
    trajectory = Trajectory.from_parts(recipe["trajectory"], tensors)
    _check_schedule(path, model, request, trajectory)
    return EditSession(
        model=model,
        picture=Image.fromarray(tensors["picture"].numpy()),
        framing=_framing(recipe["framing"]),
        trajectory=trajectory,
        request=request,
        stated=tuple(InputStated(**one) for one in recipe["inputs"]),
    )


def _framing(recipe: Mapping[str, Any]) -> Framing:
    sizes = {name: (int(size[0]), int(size[1])) for name, size in recipe.items()}
    return Framing(**sizes)


def _check_schedule(
    path: Path, model: LoadedModel, request: InversionRequest, trajectory: Trajectory
) -> None:
    made = trajectory.schedule
    here = Denoiser(model.pipeline).schedule(
        made.steps,
        spacing=request.build().spacing,
        size=(int(trajectory.latents.shape[-2]), int(trajectory.latents.shape[-1])),
    )
    levels = zip(here.alpha_bar + here.sigma, made.alpha_bar + made.sigma, strict=False)
    same = replace(here, alpha_bar=made.alpha_bar, sigma=made.sigma) == made
    if not same or any(abs(one - other) > 1e-6 for one, other in levels):
        raise ConfigError(
            f"{path} was made with another noise schedule (timesteps, levels or kind of "
            f"prediction) than {model.name} has now; invert the picture anew."
        )


def _named(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name} (revision {revision})"
