"""Layouts measured where the right answer is known: poses that no words say, on the small world.

Of every scene one batch is made from one noise:

    source | layout and MasaCtrl | layout | MasaCtrl | the prompt alone

The layout is the skeleton of a held-out scene; its exact foreground and joints are what the targets
must show, and the source's animal is whom. Rivals get the same scenes, noise and layouts in batches
of their own (source | rival); `measure_layout_grid` tries S and L against one recorded source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError
from masactrl.layouts.attach import Guide, attach_layouts
from masactrl.layouts.networks import load_network
from masactrl.methods import MasaCtrl, method_named
from masactrl.puppets.captions import full_prompt
from masactrl.puppets.identity import identity
from masactrl.puppets.judging import PipelineRunner
from masactrl.puppets.posed import draw_skeletons, nearest_action, sample_posed
from masactrl.puppets.renderer import render
from masactrl.puppets.training.data import HELD_OUT_SEED

if TYPE_CHECKING:
    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector, Reading
    from masactrl.puppets.renderer import Rendered
    from masactrl.puppets.scene import Scene

__all__ = [
    "COLUMNS",
    "RIVALS",
    "LayoutFigures",
    "measure_layout_grid",
    "measure_layouts",
    "posed_scenes",
]

COLUMNS: Final = ("layout and MasaCtrl", "layout", "MasaCtrl", "prompt alone")
RIVALS: Final = ("prompt-to-prompt", "plug-and-play")
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
    rivals: Sequence[str] = (),
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
        rivals: methods that are given the layout, too, with their own defaults.
        on_progress: called after every batch with scenes.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}.")
    scenes, size = posed_scenes(count, seed=seed), model.preset.height
    network = load_network(model, "pose")
    runner = PipelineRunner.of(model.pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    control = MasaCtrl(schedule=Schedule(start_step=start_step, start_layer=start_layer))
    columns = (*COLUMNS, *(f"layout and {name}" for name in rivals))
    sums: dict[str, dict[str, list[Tensor]]] = {name: {} for name in columns}
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
            start = runner.noise(n)
            noise = start.repeat(1 + len(COLUMNS), 1, 1, 1)
            made = runner.pictures(prompts, noise).unflatten(0, (-1, n))
        own = [_by_rival(model, runner, name, guide, prompts[: 2 * n], start) for name in rivals]
        made = torch.cat((made, *(one[None] for one in own)))
        samples += list(torch.cat((made[:1], shown[None].cpu(), made[1:])).unbind(1))[
            : max(0, _SAMPLES - at)
        ]
        was = inspector.read(made[0])
        for column, pictures in zip(columns, made[1:], strict=True):
            _note(sums[column], was, inspector.read(pictures), right, part)
        if on_progress is not None:
            on_progress(at + n, count)
    return LayoutFigures(rows=_means(sums), samples=torch.stack(samples))


def measure_layout_grid(
    model: LoadedModel,
    inspector: Inspector,
    *,
    start_steps: Sequence[int],
    start_layers: Sequence[int],
    count: int = 10,
    steps: int = 20,
    guidance: float = 4.0,
    batch: int = 8,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> LayoutFigures:
    """Put targets by skeletons with every S and L, each reading one recorded source.

    Args, but for those of `measure_layouts`:
        start_steps, start_layers: what is tried.
        batch: scenes at once.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}.")
    scenes, size = posed_scenes(count, seed=seed), model.preset.height
    network = load_network(model, "pose")
    runner = PipelineRunner.of(model.pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    cells = [(s, layer) for s in start_steps for layer in start_layers]
    sums: dict[str, dict[str, list[Tensor]]] = {f"S={s} L={layer}": {} for s, layer in cells}
    samples: list[Tensor] = []
    for at in range(0, count, batch):
        part = scenes[at : at + batch]
        right, n = render(part, size), len(part)
        shown = draw_skeletons(right.keypoints, size)
        prompts, noise = _prompts(part), runner.noise(n)
        least = Schedule(start_step=min(start_steps), start_layer=min(start_layers))
        with MasaCtrl(schedule=least).record(model.pipeline, sources=n, device="cpu") as source:
            made = [runner.pictures(prompts[:n], noise)]
        rows = Rows(images=n, reads=tuple((n + k,) for k in range(n)), cached=n)
        guide = Guide(network=network, pictures=tuple(shown))
        was = inspector.read(made[0])
        for s, layer in cells:
            control = MasaCtrl(schedule=Schedule(start_step=s, start_layer=layer))
            with (
                attach_layouts(model.pipeline, [guide], images=n),
                control.attach(model.pipeline, rows, source=source),
            ):
                made.append(runner.pictures(prompts[n : 2 * n], noise))
            _note(sums[f"S={s} L={layer}"], was, inspector.read(made[-1]), right, part)
        samples += list(torch.stack((made[0], shown, *made[1:]), 1))[: max(0, _SAMPLES - at)]
        if on_progress is not None:
            on_progress(at + n, count)
    return LayoutFigures(rows=_means(sums), samples=torch.stack(samples))


def _by_rival(
    model: LoadedModel,
    runner: PipelineRunner,
    name: str,
    guide: Guide,
    prompts: Sequence[str],
    start: Tensor,
) -> Tensor:
    """Targets of n scenes by another method, led as those of MasaCtrl: sources, then targets."""
    n = len(start)
    reads = [(k,) for k in range(n)]
    led = replace(guide, pictures=guide.pictures[: 2 * n])
    with (
        attach_layouts(model.pipeline, [led], images=2 * n),
        method_named(name).attach(
            model.pipeline, Rows(images=2 * n, reads=(*reads, *reads)), prompts=prompts
        ),
    ):
        return runner.pictures(prompts, start.repeat(2, 1, 1, 1))[n:]


def _note(
    sums: dict[str, list[Tensor]],
    was: Reading,
    seen: Reading,
    right: Rendered,
    scenes: Sequence[Scene],
) -> None:
    """Judge n pictures against their right answers and their sources."""
    size = right.image.shape[-1]
    inside, there = seen.mask > 0.5, right.mask > 0.5
    both, either = (inside & there).sum((1, 2, 3)), (inside | there).sum((1, 2, 3))
    apart = (seen.keypoints - right.keypoints).norm(dim=-1)
    within = ((right.keypoints >= 0) & (right.keypoints <= size)).all(-1)
    species = [a == s.identity.species for a, s in zip(seen.species, scenes, strict=True)]
    for name, values in (
        ("pose IoU", both / either.clamp(min=1)),
        ("joints", (apart < _NEAR * size).float()[within]),
        ("identity error", identity(was, seen).error),
        ("species", torch.tensor(species).float()),
    ):
        sums.setdefault(name, []).append(values)


def _means(sums: Mapping[str, Mapping[str, list[Tensor]]]) -> dict[str, dict[str, float]]:
    return {
        column: {name: torch.cat(parts).mean().item() for name, parts in found.items()}
        for column, found in sums.items()
    }


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
