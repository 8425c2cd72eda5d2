"""What the identity error is of drawn pictures, where the right answer is known without a method.

    same scene, otherwise   sources and right answers of PuppetBench's tuning split
    close-up of it          the same of the tasks that ask for a close-up
    another animal          the right answer with another animal of the species in its place

The bounds of `masactrl.puppets.identity` were chosen on these pairs: the first passes in at least
97 %, the last in at most 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from masactrl.bench.puppet_tasks import halves_of
from masactrl.puppets.identity import SAME, identity
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import sample_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.scene import Scene

__all__ = ["TruthRow", "measure_truth"]

_AT_ONCE = 32
_OTHERS = 4  # other animals a task
_SEED = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRow:
    """The identity errors of pairs of drawn pictures.

    Attributes:
        errors: (pairs,) E of `masactrl.puppets.identity`.
        named: (pairs,) the figure of earlier releases.
    """

    errors: Tensor
    named: Tensor

    def figures(self) -> dict[str, float]:
        """Pairs, the share that counts as the same animal, and quantiles of E."""
        levels = torch.tensor((0.01, 0.5, 0.97), dtype=self.errors.dtype, device="cpu")
        low, middle, high = self.errors.quantile(levels).tolist()
        return {
            "pairs": float(len(self.errors)),
            "the same animal": float((self.errors <= SAME).float().mean()),
            "E, 1 %": low,
            "E, median": middle,
            "E, 97 %": high,
            "by named colours, median": float(self.named.median()),
        }


def measure_truth(
    inspector: Inspector,
    *,
    size: int = 256,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, TruthRow]:
    """Read drawn pairs and return their identity errors by what they are.

    Args:
        inspector: reads them.
        size: of the pictures, pixels.
        limit: tasks of each half; None is all of the tuning split.
        on_progress: called with (done, pairs).
    """
    tasks = halves_of("tuning", "both", limit=limit)
    whole = [task for task in tasks if task.kind != "close-up"]
    near = [task for task in tasks if task.kind == "close-up"]
    generator = torch.Generator().manual_seed(_SEED)
    pairs = {
        "same scene, otherwise": [(task.source, task.target) for task in whole],
        "close-up of it": [(task.source, task.target) for task in near],
        "another animal": [
            (task.source, _with_another(task.target, generator))
            for _ in range(_OTHERS)
            for task in whole
        ],
    }
    total, done, rows = sum(map(len, pairs.values())), 0, {}
    for name, members in pairs.items():
        found = []
        for at in range(0, len(members), _AT_ONCE):
            part = members[at : at + _AT_ONCE]
            found.append(_read(inspector, part, size))
            done += len(part)
            if on_progress is not None:
                on_progress(done, total)
        if found:
            errors, named = (torch.cat(column) for column in zip(*found, strict=True))
            rows[name] = TruthRow(errors=errors, named=named)
    return rows


def _read(
    inspector: Inspector, pairs: Sequence[tuple[Scene, Scene]], size: int
) -> tuple[Tensor, Tensor]:
    was, seen = (inspector.read(render(scenes, size).image) for scenes in zip(*pairs, strict=True))
    apart = identity(was, seen)
    return apart.error, apart.named


def _with_another(scene: Scene, generator: torch.Generator) -> Scene:
    """The scene with another animal of its species."""
    while True:
        other = sample_scene(generator, close_up=0.0).identity
        if other.species == scene.identity.species:
            return replace(scene, identity=other)
