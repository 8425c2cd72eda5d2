"""A watched run of a visitor: its targets, large enough to click on, and where a click looked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masactrl.pictures.images import save_png
from masactrl.pictures.overlays import enlarged
from masactrl.rerun.attention import attention_recipe

if TYPE_CHECKING:
    from masactrl.runs.recipe import Recipe
    from masactrl.studies.attention import AttentionView

__all__ = ["Watched"]

_CLICKABLE = 384  # pixels that the longer side of a picture to click on has at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A watched run.

    Attributes:
        view: where every point looked.
        recipe: of the run.
        folder: of its pictures.
    """

    view: AttentionView
    recipe: Recipe
    folder: Path

    def targets(self) -> tuple[str, ...]:
        """Return the names of the targets."""
        return tuple(f"target {number}" for number in range(1, len(self.view.targets) + 1))

    def clickable(self, target: int) -> Path:
        """Return the file of a target's picture, 0 for the first, enlarged by a whole factor."""
        path = self.folder / f"clickable{target + 1}.png"
        if not path.exists():
            save_png(path, enlarged(self.view.targets[target], least=_CLICKABLE))
        return path

    def figure(
        self, clicked: tuple[int, int], *, target: int, step: int | None, layer: int | None
    ) -> Path:
        """Return the file of the figure for a click on the picture of `clickable`.

        Args:
            clicked: x and y in its pixels.
            target: which, 0 for the first.
            step, layer: None is the mean over all.

        Raises:
            ConfigError: the click is outside, or that step or layer was not kept.
        """
        picture = self.view.targets[target]
        factor = enlarged(picture, least=_CLICKABLE).width // picture.width
        point = (clicked[0] // factor, clicked[1] // factor)
        figure = self.view.figure(point, target=target, step=step, layer=layer)
        words = "-".join(
            str("all" if one is None else one) for one in (target + 1, *point, step, layer)
        )
        path = self.folder / f"attention-{words}.png"
        recipe = attention_recipe(self.recipe, [point], target=target + 1, step=step, layer=layer)
        save_png(path, figure, recipe.to_json())
        return path
