"""A pipeline of one's own as a model of this package."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from masactrl.errors import UnsupportedPipeline
from masactrl.models.loading import (
    CLASSES,
    LoadedModel,
    check_channels,
    ddim_like,
    usual_preset,
)
from masactrl.models.origin import Origin, weights_hash

if TYPE_CHECKING:
    from masactrl.models.loading import Pipeline
    from masactrl.models.presets import ModelPreset

__all__ = ["model_of"]


def model_of(
    pipeline: Pipeline, *, name: str = "own", preset: ModelPreset | None = None
) -> LoadedModel:
    """Return a pipeline that is loaded already, with its LoRAs, adapters and device, as a model.

        model = model_of(StableDiffusionPipeline.from_pretrained(...).to("cuda"))
        generate(model, GenerateRequest(...))

    The pipeline is left as it is: the model shares its networks and has a scheduler of its own.

    Args:
        pipeline: text to image; Stable Diffusion 1.x, 2.x, XL, SD3 or FLUX.
        name: for recipes.
        preset: settings for all that requests leave open; None is that of the family. With its
            scheduler "ddim" the model denoises with DDIM, with "model" as the pipeline does.

    Raises:
        UnsupportedPipeline: it is of another class, or makes no pictures from text alone.
    """
    family = next((one for one, kind in CLASSES.items() if type(pipeline) is kind), None)
    if family is None:
        accepted = ", ".join(kind.__name__ for kind in CLASSES.values())
        raise UnsupportedPipeline(
            f"The pipeline is a {type(pipeline).__name__}; accepted are {accepted}. Make one of "
            "its parts: StableDiffusionPipeline(**pipeline.components)."
        )
    check_channels(pipeline, name)
    preset = usual_preset(family, pipeline) if preset is None else preset
    made = copy.copy(pipeline)
    if preset.scheduler == "ddim":
        made.scheduler = ddim_like(pipeline.scheduler)
    made.set_progress_bar_config(disable=True)
    return LoadedModel(
        pipeline=made,
        name=name,
        family=family,
        preset=preset,
        origin=Origin(weights=weights_hash(pipeline)),
    )
