"""Models distilled for a few steps: which scheduler, how many steps, which guidance.

A recipe is named (`--preset lcm`), or recognised by the model's own scheduler or by a name that the
model or a LoRA has. The figures are those of the papers and model cards:

    lcm        Latent Consistency Models, arXiv 2310.04378 and 2311.05556 (LCM-LoRA)
    tcd        Trajectory Consistency Distillation, arXiv 2402.19159
    hyper-sd   arXiv 2404.13686; its LoRAs for 2, 4 and 8 steps
    turbo      SD-Turbo, SDXL-Turbo: Adversarial Diffusion Distillation, arXiv 2311.17042
    lightning  SDXL-Lightning, arXiv 2402.13929
    dmd2       Distribution Matching Distillation, arXiv 2405.14867
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import diffusers

from masactrl.errors import ConfigError
from masactrl.models.joint import reads_guidance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from masactrl.models.presets import ModelPreset

__all__ = ["FEW_STEPS", "FewSteps", "for_few_steps", "recognised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FewSteps:
    """One recipe.

    Attributes:
        scheduler: class of diffusers.
        config: what its configuration has beside the model's noise schedule.
        steps: denoising steps.
        words: in names of models and LoRAs.
        told: guidance of networks that are told it as a number.
    """

    scheduler: str
    config: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 4
    words: tuple[str, ...] = ()
    told: float = 8.5


_TRAILING = MappingProxyType({"timestep_spacing": "trailing"})
FEW_STEPS: Mapping[str, FewSteps] = MappingProxyType(
    {
        "lcm": FewSteps(scheduler="LCMScheduler", words=("lcm",)),
        "tcd": FewSteps(scheduler="TCDScheduler", words=("tcd",)),
        "hyper-sd": FewSteps(
            scheduler="DDIMScheduler", config=_TRAILING, words=("hyper-sd", "hyper_sd")
        ),
        "turbo": FewSteps(
            scheduler="EulerAncestralDiscreteScheduler", config=_TRAILING, words=("turbo",)
        ),
        "lightning": FewSteps(
            scheduler="EulerDiscreteScheduler", config=_TRAILING, words=("lightning",)
        ),
        "dmd2": FewSteps(scheduler="LCMScheduler", words=("dmd2",)),
    }
)
"""Every recipe by its name."""


def recognised(scheduler: Any, names: Iterable[str]) -> str:
    """Return the recipe of a model; empty where it has none.

    Args:
        scheduler: the model's own.
        names: of the model and of its LoRAs, without folders.
    """
    said = [name.lower() for name in names]
    for recipe, few in FEW_STEPS.items():
        if any(word in name for word in few.words for name in said):
            return recipe
    own = type(scheduler).__name__
    return {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}.get(own, "")


def for_few_steps(pipeline: Any, recipe: str, preset: ModelPreset) -> ModelPreset:
    """Give a pipeline the scheduler of a recipe, and return the preset that goes with it.

    Raises:
        ConfigError: there is no such recipe, or the model is no U-Net (SD3, FLUX).
    """
    if recipe not in FEW_STEPS:
        raise ConfigError(
            f"preset={recipe!r} was given; accepted are auto, none, {', '.join(FEW_STEPS)}."
        )
    if not hasattr(pipeline, "unet"):
        raise ConfigError(
            f"preset={recipe!r} is for Stable Diffusion 1.x, 2.x and XL, and the model is a "
            f"{type(pipeline).__name__}; leave it out."
        )
    few = FEW_STEPS[recipe]
    own = dict(pipeline.scheduler.config)
    # Values that were nobody's choice, only the default of the model's own scheduler class.
    nobodys = {*own.pop("_use_default_values", ())}
    chosen = {key: value for key, value in own.items() if key not in nobodys}
    usual = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    kind: Any = getattr(diffusers, few.scheduler)
    kept = {} if type(pipeline.scheduler).__name__ == few.scheduler else few.config
    pipeline.scheduler = kind.from_config({**usual, **chosen, **kept})
    return replace(
        preset,
        steps=few.steps,
        guidance_scale=few.told if reads_guidance(pipeline) else 1.0,
        start_step=1,
        scheduler="model",
        distilled=recipe,
    )
