"""What a sweep gives back: the grid as one figure, every cell as a picture, and what was run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from masactrl.pictures.figures import Figure
from masactrl.pictures.files import write_text
from masactrl.pictures.images import Tile, png_bytes
from masactrl.runs.result import prepare_folder, write_pictures

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from masactrl.runs.recipe import Recipe
    from masactrl.studies.axes import Axes

__all__ = ["SWEEP", "SweepResult", "TargetSweep", "cell_name", "sweep_names"]

SWEEP = "sweep"
"""The name of the figure, and of the JSON beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSweep:
    """One target prompt in all cells.

    Attributes:
        prompt: what it shows.
        uncontrolled: the picture without control.
        cells: (S, L) -> the picture with control; those that were made before the sweep was
            stopped, else all.
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
        recipe: of the figure; `recipe.of` is that of a cell.
        seconds: that it took, the inversion included.
        passes: rows that went through the U-Net, the inversion included.
        facts: more that is worth keeping: of an edit the PSNR of its reconstruction in dB;
            None where it is infinite.
    """

    axes: Axes
    picture: Image.Image | None
    source: Image.Image
    targets: tuple[TargetSweep, ...]
    recipe: Recipe
    seconds: float
    passes: int
    facts: Mapping[str, float | None] = field(default_factory=dict)

    def to_sheet(self, notes: Mapping[tuple[int, int], str] | None = None) -> Image.Image:
        """Return the figure: per target a row of sources, then a row for each S, a column per L.

        Args:
            notes: (S, L) -> words to show under that cell.
        """
        return self.to_figure(notes).to_image()

    def to_figure(self, notes: Mapping[tuple[int, int], str] | None = None) -> Figure:
        """Return what `to_sheet` draws, to be saved as PNG and SVG; arguments are the same."""
        rows: list[tuple[Tile, ...]] = []
        head = [] if self.picture is None else [Tile(image=self.picture, caption="input")]
        head.append(Tile(image=self.source, caption=self._of_source()))
        for target in self.targets:
            plain = Tile(image=target.uncontrolled, caption=f"no control: {target.prompt}")
            rows.append((*head, plain))
            for step in self.axes.start_steps:
                cells = [(step, layer) for layer in self.axes.start_layers]
                rows.append(
                    tuple(
                        Tile(image=target.cells.get(cell), caption=_caption(cell, notes))
                        for cell in cells
                    )
                )
        return Figure(rows=tuple(rows))

    def _of_source(self) -> str:
        if self.picture is None:
            return "source"
        ratio = self.facts.get("psnr")
        return "reconstruction" if ratio is None else f"reconstruction, {ratio:.1f} dB"

    def _made(self, target: TargetSweep) -> list[tuple[int, int]]:
        """The cells that were made, row by row."""
        return [cell for cell in self.axes.cells() if cell in target.cells]

    @property
    def whole(self) -> bool:
        """Whether every cell was made."""
        return all(len(target.cells) == len(self.axes.cells()) for target in self.targets)

    def pictures(self) -> dict[str, Image.Image]:
        """Return every cell under the name that `save` gives it."""
        return {
            cell_name(number, cell): target.cells[cell]
            for number, target in enumerate(self.targets, start=1)
            for cell in self._made(target)
        }

    def prompts(self) -> dict[str, str]:
        """Return the prompt of every cell, under the names of `pictures`."""
        return {
            cell_name(number, cell): target.prompt
            for number, target in enumerate(self.targets, start=1)
            for cell in target.cells
        }

    def to_json(self) -> dict[str, Any]:
        """Return what was run as values that JSON knows."""
        told = self.recipe.to_json()
        asked = told.pop("request")
        told.pop("picture")
        return {
            **told,
            "of": asked["of"],
            "request": asked["run"],
            "axes": asked["axes"],
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
                for number, target in enumerate(self.targets, start=1)
                for cell in self._made(target)
            ],
        }

    def save(
        self, folder: Path, *, overwrite: bool = False, metadata: bool = True
    ) -> tuple[Path, ...]:
        """Write the figure and every cell as PNG; return their paths, the figure's first.

        The figure is written as SVG, too, beside the PNG. A sweep that was stopped has no figure,
        only the cells that were made.

        Args:
            folder: where to; made if it does not exist.
            overwrite: whether files of these names may be replaced.
            metadata: whether every picture carries its recipe, and the figure's lies beside it.

        Raises:
            OutputError: it cannot be written, or would replace a file.
        """
        names = sweep_names(len(self.targets), self.axes)
        prepare_folder(folder, names, overwrite=overwrite)
        pictures = {**({SWEEP: self.to_sheet()} if self.whole else {}), **self.pictures()}
        recipe = self.recipe if metadata else None
        paths = write_pictures(folder, pictures, recipe, prompts=self.prompts())
        if self.whole:
            write_text(folder / f"{SWEEP}.svg", self.to_figure().to_svg())
        return paths

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        return png_bytes(self.to_sheet())


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
