"""`masactrl puppets measure layout` and `animation`: layouts, with the right answers known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel

    Measured = tuple[Mapping[str, Any], Mapping[str, Mapping[str, float | None]], Image.Image]


def measured_layouts(
    model: LoadedModel,
    start_steps: Sequence[int],
    start_layers: Sequence[int],
    rivals: Sequence[str],
    settings: Mapping[str, Any],
) -> Measured:
    """Measure, and return further facts, the means and the sheet; of several S or L a grid."""
    from masactrl.bench.model_measure_layout import measure_layout_grid, measure_layouts
    from masactrl.pictures.images import Tile, contact_sheet, tensor_to_images
    from masactrl.puppets.inspector import Inspector

    if len(start_steps) > 1 or len(start_layers) > 1:
        found = measure_layout_grid(
            model,
            Inspector.load(),
            start_steps=start_steps,
            start_layers=start_layers,
            **settings,
        )
    else:
        found = measure_layouts(
            model,
            Inspector.load(),
            start_step=start_steps[0],
            start_layer=start_layers[0],
            rivals=rivals,
            **settings,
        )
    rows = [[Tile(image=one) for one in tensor_to_images(r, signed=False)] for r in found.samples]
    sheet = contact_sheet(rows, headers=("source", "layout", *found.rows))
    facts = {"S": list(start_steps), "L": list(start_layers), "dtype": model.dtype}
    return facts, found.rows, sheet


def measured_animations(
    model: LoadedModel, start_step: int, start_layer: int, settings: Mapping[str, Any]
) -> Measured:
    """Measure, and return further facts, the means and a sheet of the first clip, row by row."""
    from masactrl.bench.model_measure_animation import measure_animations
    from masactrl.pictures.images import Tile, contact_sheet
    from masactrl.puppets.inspector import Inspector

    found = measure_animations(
        model, Inspector.load(), start_step=start_step, start_layer=start_layer, **settings
    )
    source, columns = found.samples
    rows = [
        [Tile(image=source), *(Tile(image=one) for one in frames[:8])]
        for frames in columns.values()
    ]
    facts = {"S": start_step, "L": start_layer, "frames": settings["frames"]}
    return {**facts, "dtype": model.dtype}, found.rows, contact_sheet(rows)
