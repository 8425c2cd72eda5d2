"""Measurements as pictures: sheets of samples, and the grid of S and L."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from masactrl.errors import MissingExtra
from masactrl.pictures.images import Tile, contact_sheet, tensor_to_image, tensor_to_images

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.puppets.measured import EditFigures, EditGrid, FormFigures, PromptAgreement

#: Panels of the grid: figure of `EditSide`, title, format, colours (dark is better), or worse.
_PANELS: Final = (
    ("identity_error", "identity error (CIELAB)", "{:.0f}", "viridis"),
    ("action", "right action (share)", "{:.2f}", "viridis_r"),
    ("facing", "right facing (share)", "{:.2f}", "viridis_r"),
    ("background", "background (dB)", "{:.1f}", "viridis_r"),
)


def draw_grid(grid: EditGrid) -> Image.Image:
    """Maps over S and L: identity error, action, facing, background; dark is better.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the figure of a grid", "bench") from error
    from PIL import Image

    # Figure and canvas of our own: pyplot would keep state for the whole process.
    figure = Figure(figsize=(17, 4.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        _draw_panel(axes, grid, *panel)
    figure.suptitle(f"Mutual self-attention from step S and layer L ({grid.pairs} pairs each)")
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert(
        "RGB"
    )


def _draw_panel(axes: Any, grid: EditGrid, name: str, title: str, form: str, colours: str) -> None:
    values = grid.values(name)
    shown = axes.imshow(values.numpy(), cmap=colours, aspect="auto")
    axes.set_xticks(range(len(grid.start_layers)), [str(v) for v in grid.start_layers])
    axes.set_yticks(range(len(grid.start_steps)), [str(v) for v in grid.start_steps])
    axes.set_xlabel("start layer L")
    axes.set_ylabel("start step S")
    axes.set_title(f"{title}; without control {form.format(getattr(grid.uncontrolled, name))}")
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            # Legible on any colour: light letters with a dark rim would need more than a line.
            red, green, blue, _ = shown.cmap(shown.norm(value))
            light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
            axes.text(
                j,
                i,
                form.format(value),
                ha="center",
                va="center",
                color="black" if light else "white",
            )


def prompt_sheet(agreement: PromptAgreement, *, columns: int = 4) -> Image.Image:
    """The kept pictures with their prompts, and what the inspector saw where it disagrees."""
    tiles = []
    reading = agreement.readings
    for k, (task, picture) in enumerate(zip(agreement.tasks, agreement.samples, strict=True)):
        seen = (reading.species[k], reading.action[k], reading.facing[k], reading.place[k])
        asked = (task.species, task.action, task.facing, task.place)
        wrong = [s for s, a in zip(seen, asked, strict=True) if s != a]
        caption = f"{task.prompt} [seen: {', '.join(wrong)}]" if wrong else task.prompt
        tiles.append(Tile(image=tensor_to_image(picture, signed=False), caption=caption))
    return contact_sheet([tiles[at : at + columns] for at in range(0, len(tiles), columns)])


def edit_sheet(figures: EditFigures) -> Image.Image:
    """A row per kept pair: source, the same noise without control, with control."""
    rows = []
    for task, pictures in zip(figures.tasks, figures.samples, strict=True):
        source, controlled, uncontrolled = tensor_to_images(pictures, signed=False)
        rows.append(
            (
                Tile(image=source, caption=task.source_prompt),
                Tile(image=uncontrolled, caption=task.target_prompt),
                Tile(image=controlled, caption=task.target_prompt),
            )
        )
    return contact_sheet(rows, headers=("source", "same noise, no control", "MasaCtrl"))


def form_sheet(figures: FormFigures) -> Image.Image:
    """A row per kept pair: source, then the target in every form."""
    rows = []
    for task, pictures in zip(figures.tasks, figures.samples, strict=True):
        source, *targets = tensor_to_images(pictures, signed=False)
        rows.append(
            (
                Tile(image=source, caption=task.source_prompt),
                *(Tile(image=target, caption=task.target_prompt) for target in targets),
            )
        )
    return contact_sheet(rows, headers=("source", *figures.sides))
