"""Layouts measured where the right answer is known: poses that no words say, on the small world.

Of every scene one batch is made from one noise:

    source | layout and MasaCtrl | layout | MasaCtrl | the prompt alone

The layout is the skeleton of a held-out scene; its exact foreground and joints are what the targets
must show, and the source's animal is whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError
from masactrl.layouts.attach import Guide, attach_layouts
from masactrl.layouts.networks import load_network
from masactrl.methods import MasaCtrl
from masactrl.puppets.captions import full_prompt
from masactrl.puppets.identity import identity
from masactrl.puppets.judging import Studio
from masactrl.puppets.posed import draw_skeletons, nearest_action, sample_posed
from masactrl.puppets.renderer import render
from masactrl.puppets.training.data import HELD_OUT_SEED

if TYPE_CHECKING:
    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.scene import Scene

__all__ = ["COLUMNS", "LayoutFigures", "measure_layouts", "posed_scenes"]

COLUMNS: Final = ("layout and MasaCtrl", "layout", "MasaCtrl", "prompt alone")
_NEAR: Final = 0.05  # of the picture's height, within which a joint counts as found
_SAMPLES: Final = 10  # rows of pictures that a result keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutFigures:
    """What was measured.

    Attributes:
        rows: column -> mean IoU with the exact foreground, share of joints in the picture that lie
            within 5 % of its height of where they should, identity error against the source, and
            share of the right species.
        samples: (rows, 2 + columns, 3, h, w) in [0, 1]: source, layout, then the columns.
    """

    rows: Mapping[str, Mapping[str, float]]
    samples: Tensor


def posed_scenes(count: int, *, seed: int = 0) -> tuple[Scene, ...]:
    """Draw held-out scenes in poses that no words say, whole bodies only."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED + 7 + seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = sample_posed(generator)
        if scene.camera.shot == "full body":
            found.append(scene)
    return tuple(found)


def measure_layouts(
    model: LoadedModel,
    inspector: Inspector,
    *,
    start_step: int,
    start_layer: int,
    count: int = 200,
    steps: int = 20,
    guidance: float = 4.0,
    batch: int = 10,
    seed: int = 0,
    scale: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> LayoutFigures:
    """Put targets by skeletons, with and without MasaCtrl, and compare with the right answers.

    Sources stand; a target's prompt names the nearest action, as far as words go.

    Args:
        model: the embedded one.
        inspector: reads the pictures.
        start_step, start_layer: S and L.
        count: scenes, at least 1.
        steps, guidance: of the runs.
        batch: pictures made at once, five a scene.
        seed: of scenes and noise.
        scale: weight of the layout.
        on_progress: called after every batch with scenes.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}.")
    scenes, size = posed_scenes(count, seed=seed), model.preset.height
    network = load_network(model, "pose")
    studio = Studio.of(model.pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    control = MasaCtrl(schedule=Schedule(start_step=start_step, start_layer=start_layer))
    sums: dict[str, dict[str, list[Tensor]]] = {name: {} for name in COLUMNS}
    samples: list[Tensor] = []
    each = max(1, batch // (1 + len(COLUMNS)))
    for at in range(0, count, each):
        part = scenes[at : at + each]
        right = render(part, size)
        shown = draw_skeletons(right.keypoints, size)
        n = len(part)
        rows, led = _rows(n, shown)
        prompts = _prompts(part)
        guide = Guide(network=network, pictures=led, scale=scale)
        with (
            attach_layouts(model.pipeline, [guide], images=rows.images),
            control.attach(model.pipeline, rows),
        ):
            noise = studio.noise(n).repeat(1 + len(COLUMNS), 1, 1, 1)
            made = studio.pictures(prompts, noise).unflatten(0, (-1, n))
        samples += list(torch.cat((made[:1], shown[None].cpu(), made[1:])).unbind(1))[
            : max(0, _SAMPLES - at)
        ]
        was = inspector.read(made[0])
        for column, pictures in zip(COLUMNS, made[1:], strict=True):
            seen = inspector.read(pictures)
            inside, there = seen.mask > 0.5, right.mask > 0.5
            both, either = (inside & there).sum((1, 2, 3)), (inside | there).sum((1, 2, 3))
            apart = (seen.keypoints - right.keypoints).norm(dim=-1)
            within = ((right.keypoints >= 0) & (right.keypoints <= size)).all(-1)
            species = [a == s.identity.species for a, s in zip(seen.species, part, strict=True)]
            for name, values in (
                ("pose IoU", both / either.clamp(min=1)),
                ("joints", (apart < _NEAR * size).float()[within]),
                ("identity error", identity(was, seen).error),
                ("species", torch.tensor(species).float()),
            ):
                sums[column].setdefault(name, []).append(values)
        if on_progress is not None:
            on_progress(at + n, count)
    return LayoutFigures(
        rows={
            column: {name: torch.cat(parts).mean().item() for name, parts in found.items()}
            for column, found in sums.items()
        },
        samples=torch.stack(samples),
    )


def _rows(n: int, shown: Tensor) -> tuple[Rows, tuple[Tensor | None, ...]]:
    """Who reads whom, and who is shown a layout; the columns of n scenes one after the other."""
    own = [(image,) for image in range((1 + len(COLUMNS)) * n)]
    source = [(image,) for image in range(n)]
    # source, layout and MasaCtrl, layout, MasaCtrl, prompt alone
    reads = [*own[:n], *source, *own[2 * n : 3 * n], *source, *own[4 * n :]]
    nothing, drawn = [None] * n, list(shown)
    return (
        Rows(images=len(reads), reads=tuple(reads)),
        (*nothing, *drawn, *drawn, *nothing, *nothing),
    )


def _prompts(scenes: Sequence[Scene]) -> list[str]:
    def said(scene: Scene, action: str) -> str:
        return full_prompt(scene.identity.species, action, scene.backdrop.place, scene.pose.facing)

    targets = [said(one, nearest_action(one.pose)) for one in scenes]
    return [*(said(one, "standing") for one in scenes), *targets * len(COLUMNS)]
