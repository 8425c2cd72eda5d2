"""Settings that serve a model best: steps, guidance, and where control should begin.

A folder may carry its own in a file `masactrl.json`, as the embedded model does:

    {"family": "puppets", "steps": 20, "guidance_scale": 4.0, "start_step": 2, "start_layer": 10,
     "height": 256, "width": 256, "scheduler": "ddim"}

Any other model gets the settings of its family.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from masactrl.errors import ConfigError
from masactrl.pictures.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Family = Literal["puppets", "puppets-sd3", "sd", "sdxl", "sd3", "flux"]
"""What a model is like: a small one of the puppet world, with Stable Diffusion's U-Net or SD3's
transformer; Stable Diffusion 1.x and 2.x, XL, 3 and 3.5; FLUX.1."""

PUPPETS: Final[tuple[Family, ...]] = ("puppets", "puppets-sd3")
"""Families whose pictures the inspector reads."""

SchedulerName = Literal["ddim", "model"]
"""`ddim`: DDIM made from the configuration of the model's own; `model`: the model's own."""

_UNGUIDED = ("hyper-sd", "turbo", "lightning", "dmd2")
"""Distilled with guidance in the weights; LCM and TCD stand a little more."""

PRESET_FILE = "masactrl.json"
_SCHEMA = 1

Pixels = Annotated[int, Field(ge=8, multiple_of=8)]


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class ModelPreset:
    """The settings that a request gets where it names none.

    Attributes:
        steps: denoising steps, 1 to 1000.
        guidance_scale: weight of classifier-free guidance; 1 switches guidance off.
        start_step: S, the first controlled step (0 is the noisiest).
        start_layer: L, the first controlled self-attention layer in execution order.
        height: of a picture in pixels, a multiple of 8.
        width: of a picture in pixels, a multiple of 8.
        scheduler: see `SchedulerName`.
        distilled: name of its recipe in `masactrl.models.few_steps`; empty for none.
    """

    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    start_step: Annotated[int, Field(ge=0)]
    start_layer: Annotated[int, Field(ge=0)]
    height: Pixels
    width: Pixels
    scheduler: SchedulerName = "ddim"
    distilled: str = ""

    def check_guidance(self, scale: float | None, away_from: str | None = None) -> None:
        """Refuse guidance of a model that was distilled without; ConfigError.

        Away from words, a little of it makes edits stronger (TurboEdit's pseudo-guidance).
        """
        if scale not in (None, 1) and self.distilled in _UNGUIDED and not away_from:
            raise ConfigError(
                f"guidance_scale={scale:g} was given, and {self.distilled} models are distilled "
                "without guidance; leave it out, give 1, or in an edit say with the negative "
                "prompt what the picture shows, from which about 1.5 leads away."
            )

    def start_step_of(self, steps: int) -> int:
        """Return S for a run of ``steps`` steps, 0 to steps - 1.

        Control belongs to a part of the run: S=4 of 50 steps is S=2 of 20.
        """
        return min(round(self.start_step * steps / self.steps), steps - 1)


_SD: Mapping[str, Any] = MappingProxyType(
    {"steps": 50, "guidance_scale": 7.5, "start_step": 4, "start_layer": 10}
)
_FLOW: Mapping[str, Any] = MappingProxyType({"steps": 28, "start_step": 2, "scheduler": "model"})
_PRESETS: Mapping[Family, Mapping[str, Any]] = MappingProxyType(
    {
        "puppets": _SD,
        "sd": _SD,
        "sdxl": {**_SD, "guidance_scale": 5.0, "start_layer": 44},
        "puppets-sd3": {**_FLOW, "steps": 20, "guidance_scale": 4.0, "start_layer": 6},
        "sd3": {**_FLOW, "guidance_scale": 7.0, "start_layer": 12},
        "flux": {**_FLOW, "guidance_scale": 3.5, "start_layer": 19},
    }
)


class _PresetFile(BaseModel):
    """What `masactrl.json` holds beside the fields of `ModelPreset`."""

    model_config = ConfigDict(extra="allow", strict=True)

    schema_version: Annotated[int, Field(alias="schema", ge=1, le=_SCHEMA)] = _SCHEMA
    family: Family | None = None

    def preset(self) -> ModelPreset:
        """Return the other keys as a preset, which accepts none that it does not know."""
        return ModelPreset(**(self.model_extra or {}))


def default_preset(
    family: Family, *, height: int, width: int, layers: int | None = None, distilled: bool = False
) -> ModelPreset:
    """Return the settings of a model family.

    S and L are the paper's for Stable Diffusion at 50 steps and those of the authors' script for
    XL; for the embedded model they are only where its own file is missing. SD3 and FLUX have no
    published S and L: S is the same part of the run, L the middle of SD3's blocks and the end of
    FLUX's double ones.

    Args:
        family: which.
        height: of a picture in pixels, a multiple of 8.
        width: of a picture in pixels, a multiple of 8.
        layers: how many layers SD3's or FLUX's network has; None is that of the published ones.
        distilled: whether the network was made for a few steps without guidance (FLUX schnell).
    """
    made = _PRESETS[family]
    start_layer = made["start_layer"]
    if layers is not None:
        start_layer = {"sd3": layers // 2, "flux": layers // 3}.get(family, start_layer)
    if distilled:
        made = {**made, "steps": 4, "guidance_scale": 1.0, "start_step": 1}
    return ModelPreset(**{**made, "start_layer": start_layer}, height=height, width=width)


def read_preset(folder: Path) -> tuple[Family | None, ModelPreset] | None:
    """Return what the folder's `masactrl.json` says; None when it has none.

    The family is None when the file leaves it to the kind of pipeline.

    Raises:
        ConfigError: the file is there and cannot be used; says which value is wrong.
    """
    path = folder / PRESET_FILE
    try:
        text = read_text(path)
    except FileNotFoundError:
        return None
    try:
        found = _PresetFile.model_validate_json(text)
        return found.family, found.preset()
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise ConfigError(f"{path} cannot be used: {problems}.") from error


def write_preset(folder: Path, family: Family, preset: ModelPreset) -> None:
    """Write the folder's `masactrl.json`, the counterpart of `read_preset`."""
    content = {"schema": _SCHEMA, "family": family, **asdict(preset)}
    (folder / PRESET_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
