"""S and L chosen for the picture at hand: a small grid from one recorded source, and a judge.

request = EditRequest(target_prompts=("a running corgi",))
choice = edit_auto(session, request, load_scorer(model))
choice.chosen      # (4, 10), S and L
choice.reason      # "S=4, L=10 scored best of 9 with 0.71 (...); no control has 0.35."
choice.edit.save(Path("out"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from masactrl.attention import find_layers
from masactrl.errors import ConfigError
from masactrl.pictures.files import write_text
from masactrl.pictures.images import png_bytes, save_png
from masactrl.runs.edit_result import edit_names
from masactrl.runs.result import prepare_folder
from masactrl.settings.prompt_weights import without_weights
from masactrl.studies.scoring import Score, Scorer, Trial
from masactrl.studies.sweep import Axes, sweep_edit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.pictures.figures import Figure
    from masactrl.runs.cost import EditPlan
    from masactrl.runs.edit_request import EditRequest
    from masactrl.runs.edit_result import EditResult
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.recipe import Recipe
    from masactrl.runs.session import EditSession
    from masactrl.studies.sweep import SweepResult

__all__ = [
    "AUTO",
    "CHOSEN",
    "AutoResult",
    "auto_axes",
    "auto_calls",
    "auto_names",
    "auto_recipe",
    "auto_rows",
    "check_open",
    "edit_auto",
]

AUTO = "auto"
"""Kind of the recipe, and the name of the figure of the grid."""

CHOSEN = ", chosen"
"""Stands after the score of the cell that was taken."""

Cell = tuple[int, int]  # S and L


def auto_recipe(
    swept: Recipe, notes: Mapping[Cell, str], judges: Mapping[str, str], *, compare: bool
) -> Recipe:
    """Return the recipe of the figure.

    Args:
        swept: of the grid, of the kind "sweep".
        notes: (S, L) -> what stands under that cell.
        judges: options of the command that name them -> their names.
        compare: whether the edit shows its targets without control, too.
    """
    request = {
        "axes": swept.request["axes"],
        "run": {**swept.request["run"], "compare": compare},
        "scores": [[*cell, words] for cell, words in notes.items()],
        "judges": dict(judges),
    }
    return replace(swept, kind=AUTO, picture=AUTO, request=request)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoResult:
    """An edit with the S and L that were judged best.

    Attributes:
        edit: the edit, made with the chosen S and L as if they had been given.
        sweep: the grid.
        scores: (S, L) -> one score per target.
        uncontrolled: the scores of the targets without control.
        chosen: S and L.
        reason: in a sentence, why.
        judges: options of `masactrl edit` that name who judged -> names; empty for the usual ones.
    """

    edit: EditResult
    sweep: SweepResult
    scores: Mapping[Cell, tuple[Score, ...]]
    uncontrolled: tuple[Score, ...]
    chosen: Cell
    reason: str
    judges: Mapping[str, str] = field(default_factory=dict)

    def to_sheet(self) -> Image.Image:
        """Return the grid with every cell's score."""
        return self.to_figure().to_image()

    def to_figure(self) -> Figure:
        """Return what `to_sheet` draws, to be saved as PNG and SVG."""
        return self.sweep.to_figure(self._notes())

    def _notes(self) -> dict[Cell, str]:
        notes = {cell: f"{_mean(scores):.2f}" for cell, scores in self.scores.items()}
        notes[self.chosen] += CHOSEN
        return notes

    def recipe(self) -> Recipe:
        """Return how the figure of `to_sheet` was made; the pictures' are the edit's."""
        return auto_recipe(
            self.sweep.recipe, self._notes(), self.judges, compare=self.edit.request.compare
        )

    def _repr_png_(self) -> bytes:
        """Show the grid in a notebook."""
        return png_bytes(self.to_sheet())

    def to_json(self) -> dict[str, Any]:
        """Return the choice as values that JSON knows."""
        return {
            "kind": AUTO,
            "chosen": {"start_step": self.chosen[0], "start_layer": self.chosen[1]},
            "reason": self.reason,
            "no control": [_told(score) for score in self.uncontrolled],
            "cells": [
                {
                    "start_step": cell[0],
                    "start_layer": cell[1],
                    "score": round(_mean(scores), 4),
                    "targets": [_told(score) for score in scores],
                }
                for cell, scores in self.scores.items()
            ],
            "seconds": round(self.sweep.seconds, 3),
            "passes": self.sweep.passes,
        }

    def save(
        self, folder: Path, *, overwrite: bool = False, metadata: bool = True
    ) -> tuple[Path, ...]:
        """Write the edit's pictures, the grid (also as SVG) and its JSON; return the PNGs' paths.

        Args:
            folder: where to; made if it does not exist.
            overwrite: whether files of these names may be replaced.
            metadata: whether all pictures carry their recipes, see `EditResult.save`, and the
                choice is written beside the grid.

        Raises:
            OutputError: it cannot be written, or would replace a file.
        """
        prepare_folder(folder, [AUTO], overwrite=overwrite)
        paths = self.edit.save(folder, overwrite=overwrite, metadata=metadata)
        figure, text = folder / f"{AUTO}.png", folder / f"{AUTO}.json"
        save_png(figure, self.to_sheet(), self.recipe().to_json() if metadata else None)
        write_text(folder / f"{AUTO}.svg", self.to_figure().to_svg())
        if not metadata:
            return (*paths, figure)
        write_text(text, json.dumps(self.to_json(), indent=2) + "\n")
        return (*paths, figure)


def edit_auto(
    session: EditSession,
    request: EditRequest,
    scorer: Scorer,
    *,
    axes: Axes | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> AutoResult:
    """Edit a picture with the S and L that do the edit and keep the subject best.

    Every cell of the grid is made from one recording of the source and judged; several targets
    share S and L, and their mean counts. Of equal cells the model's own is taken.

    Args:
        session: the picture.
        request: the edit, its S and L left open.
        scorer: who judges.
        axes: what is tried; None is `auto_axes`.
        on_step: called after each U-Net call; an exception raised there ends the run.

    Raises:
        ConfigError: S or L is given, or the scorer cannot judge the prompt.
        ScheduleError: an S or L of the axes is beyond the run or the model.
    """
    check_open(request)
    settings = request.resolve(session.model.preset, session.trajectory.steps)
    usual = settings.start_step, settings.start_layer
    axes = axes or auto_axes(session.model, session.trajectory.steps)
    swept = sweep_edit(session, request, axes, on_step=on_step)
    cells = swept.axes.cells()
    judged = [
        scorer.score(
            Trial(
                source=session.picture,
                uncontrolled=target.uncontrolled,
                prompt=without_weights(target.prompt),
                candidates=(target.uncontrolled, *(target.cells[cell] for cell in cells)),
            )
        )
        for target in swept.targets
    ]
    scores = {
        cell: tuple(each[number] for each in judged) for number, cell in enumerate(cells, start=1)
    }
    plain = tuple(each[0] for each in judged)
    best = max(scores, key=lambda cell: (_mean(scores[cell]), cell == usual))
    if _mean(scores[best]) == 0:
        best = usual if usual in scores else best
    chosen = replace(request, start_step=best[0], start_layer=best[1])
    return AutoResult(
        edit=session.edit(chosen, on_step=on_step),
        sweep=swept,
        scores=scores,
        uncontrolled=plain,
        chosen=best,
        reason=_reason(scores, plain, best, usual),
        judges=getattr(scorer, "named", {}),
    )


def auto_axes(model: LoadedModel, steps: int) -> Axes:
    """Return the grid that is tried: the model's own S and L, half and twice S, L nearby.

    Args:
        model: whose preset is the middle.
        steps: of the run.
    """
    preset, count = model.preset, len(find_layers(model.denoiser))
    middle = preset.start_step * steps / preset.steps
    usual = min(round(middle), steps - 1)
    starts = {min(round(middle * factor), steps - 1) for factor in (0.5, 2)} | {usual}
    apart = max(1, count // 8)
    layers = {preset.start_layer + k * apart for k in (-1, 0, 1)}
    within = {min(max(layer, 0), count - 1) for layer in layers}
    return Axes(start_steps=tuple(sorted(starts)), start_layers=tuple(sorted(within)))


def auto_calls(calls: int, steps: int, axes: Axes) -> int:
    """Return about how many U-Net calls `edit_auto` makes, for a progress bar.

    Args:
        calls: of the edit with the model's own S and L, recording included.
        steps: of the run.
        axes: what is tried.
    """
    return calls + steps * len(axes.cells())


def auto_rows(
    plan: Callable[[EditRequest], EditPlan], request: EditRequest, axes: Axes
) -> tuple[int, int]:
    """Return the rows through the U-Net that choosing takes before the edit, and the cells.

    Args:
        plan: says what a request costs, for example `EditSession.plan`.
        request: the edit.
        axes: what is tried.
    """
    cells = axes.cells()
    first = min(cells)
    asked = replace(request, start_step=first[0], start_layer=first[1])
    twins, alone = (plan(replace(asked, compare=compare)) for compare in (True, False))
    # The edit itself reads the recording of the grid.
    return twins.source - plan(request).source + twins.edit + (len(cells) - 1) * alone.edit, len(
        cells
    )


def auto_names(targets: int, *, compare: bool, masks: bool) -> tuple[str, ...]:
    """Return the names of all pictures that `AutoResult.save` writes."""
    return (*edit_names(targets, compare=compare, masks=masks), AUTO)


def check_open(request: EditRequest) -> None:
    """Refuse a request that names S or L, or records nothing.

    Raises:
        ConfigError: it does.
    """
    if request.method != "masactrl":
        raise ConfigError(
            f"Auto chooses S and L, which belong to the method masactrl, not to {request.method}."
        )
    if request.start_step is not None or request.start_layer is not None:
        raise ConfigError("S or L is given, and auto chooses both; leave them or leave auto out.")
    if request.mode == "joint":
        raise ConfigError("Auto records its source once, which mode='joint' does not; leave it.")


def _mean(scores: tuple[Score, ...]) -> float:
    return sum(score.total for score in scores) / len(scores)


def _told(score: Score) -> dict[str, Any]:
    return {
        "score": round(score.total, 4),
        "edit": round(score.edit, 4),
        "subject": round(score.subject, 4),
        "because": score.words,
    }


def _reason(
    scores: Mapping[Cell, tuple[Score, ...]], plain: tuple[Score, ...], best: Cell, usual: Cell
) -> str:
    """Why the chosen cell won, in a sentence."""
    won = _mean(scores[best])
    name = f"S={best[0]}, L={best[1]}"
    if won == 0:
        return f"No cell both did the edit and kept the subject; {name} was taken unjudged."
    why = "; ".join(score.words for score in scores[best] if score.words)
    facts = f"S={best[0]}, L={best[1]} scored best of {len(scores)} with {won:.2f}"
    facts += f" ({why})" if why else ""
    others = [f"no control has {_mean(plain):.2f}"]
    if usual != best and usual in scores:
        own = f"the model's own S={usual[0]}, L={usual[1]} {_mean(scores[usual]):.2f}"
        others = [f"no control has {_mean(plain):.2f}", own]
    if _mean(plain) > won:
        others[0] += ", which is better: control does not help this edit"
    return f"{facts}; {', '.join(reversed(others))}."
