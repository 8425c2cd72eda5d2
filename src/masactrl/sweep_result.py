"""What a sweep gives back: the grid as one figure, every cell as a picture, and what was run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from masactrl.errors import OutputError
from masactrl.images import Tile, contact_sheet, save_png
from masactrl.result import prepare_folder

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.recipe import Recipe
    from masactrl.sweep_axes import Axes

__all__ = ["SWEEP", "SweepResult", "TargetSweep", "cell_name", "sweep_names"]

SWEEP = "sweep"
"""The name of the figure, and of the JSON beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSweep:
    """One target prompt in all cells.

    Attributes:
        prompt: what it shows.
        uncontrolled: the picture without control.
        cells: (S, L) -> the picture with control.
    """

    prompt: str
    uncontrolled: Image.Image
    cells: Mapping[tuple[int, int], Image.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """All pictures of a sweep.

    Attributes:
        axes: what was tried, nothing left open.
        picture: the input; None where the source was made from a prompt.
        source: the source as the model made it; of a picture its reconstruction.
        targets: one per target prompt, in order.
        recipe: of the run; of a cell see `recipe_of`.
        seconds: that it took, the inversion included.
        passes: rows that went through the U-Net, the inversion included.
        facts: more that is worth keeping: of an edit the PSNR of its reconstruction in dB.
    """

    axes: Axes
    picture: Image.Image | None
    source: Image.Image
    targets: tuple[TargetSweep, ...]
    recipe: Recipe
    seconds: float
    passes: int
    facts: Mapping[str, float] = field(default_factory=dict)

    def to_sheet(self, notes: Mapping[tuple[int, int], str] | None = None) -> Image.Image:
        """Return the figure: per target a row of sources, then a row for each S, a column per L.

        Args:
            notes: (S, L) -> words to show under that cell.
        """
        rows: list[list[Tile]] = []
        head = [] if self.picture is None else [Tile(image=self.picture, caption="input")]
        word = "source" if self.picture is None else "reconstruction"
        head.append(Tile(image=self.source, caption=word))
        for target in self.targets:
            plain = Tile(image=target.uncontrolled, caption=f"no control: {target.prompt}")
            rows.append([*head, plain])
            for step in self.axes.start_steps:
                cells = [(step, layer) for layer in self.axes.start_layers]
                rows.append(
                    [
                        Tile(image=target.cells[cell], caption=_caption(cell, notes))
                        for cell in cells
                    ]
                )
        return contact_sheet(rows)

    def recipe_of(self, target: int, cell: tuple[int, int]) -> Recipe:
        """Return the recipe of one cell: that of the plain run which makes this picture."""
        request = dict(self.recipe.request)
        request |= {"start_step": cell[0], "start_layer": cell[1]}
        return replace(self.recipe, picture=f"target{target}-controlled", request=request)

    def to_json(self) -> dict[str, Any]:
        """Return what was run as values that JSON knows."""
        run = self.recipe.to_json()
        run["request"] = {
            name: value
            for name, value in run["request"].items()
            if name not in ("start_step", "start_layer")
        }
        return {
            "kind": SWEEP,
            "of": run.pop("kind"),
            **{name: value for name, value in run.items() if name != "picture"},
            "axes": {
                "start_step": list(self.axes.start_steps),
                "start_layer": list(self.axes.start_layers),
            },
            "seconds": round(self.seconds, 3),
            "passes": self.passes,
            **self.facts,
            "cells": [
                {
                    "target": number,
                    "start_step": cell[0],
                    "start_layer": cell[1],
                    "picture": f"{cell_name(number, cell)}.png",
                }
                for number in range(1, len(self.targets) + 1)
                for cell in self.axes.cells()
            ],
        }

    def save(self, folder: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the figure, its JSON and every cell with its own recipe; return their paths.

        Raises:
            OutputError: it cannot be written, or would replace a file.
        """
        names = sweep_names(len(self.targets), self.axes)
        prepare_folder(folder, names, overwrite=overwrite)
        save_png(folder / f"{SWEEP}.png", self.to_sheet())
        paths = [folder / f"{SWEEP}.png", folder / f"{SWEEP}.json"]
        try:
            paths[1].write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{paths[1]} cannot be written: {error.strerror or error}."
            ) from error
        for number, target in enumerate(self.targets, start=1):
            for cell, picture in target.cells.items():
                paths.append(folder / f"{cell_name(number, cell)}.png")
                save_png(paths[-1], picture, self.recipe_of(number, cell).to_json())
        return tuple(paths)

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        buffer = io.BytesIO()
        self.to_sheet().save(buffer, format="PNG")
        return buffer.getvalue()


def cell_name(target: int, cell: tuple[int, int]) -> str:
    """Return the name of a cell's picture; targets count from 1."""
    return f"target{target}-S{cell[0]}-L{cell[1]}"


def sweep_names(targets: int, axes: Axes) -> tuple[str, ...]:
    """Return the names of all pictures that `SweepResult.save` writes, without ending."""
    cells = [cell_name(number, cell) for number in range(1, targets + 1) for cell in axes.cells()]
    return (SWEEP, *cells)


def _caption(cell: tuple[int, int], notes: Mapping[tuple[int, int], str] | None) -> str:
    own = f"S={cell[0]}, L={cell[1]}"
    return own if notes is None or cell not in notes else f"{own}: {notes[cell]}"
