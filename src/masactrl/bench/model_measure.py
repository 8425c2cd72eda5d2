"""Measurements with a known right answer: prompts, edits, and the grid of S and L.

The inspector judges; what the figures mean is said in `masactrl.puppets.measured`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError
from masactrl.methods import MasaCtrl
from masactrl.puppets.captions import sample_prompts
from masactrl.puppets.inspector import QUESTIONS, Inspector
from masactrl.puppets.judging import JudgedBatch, Means, PipelineRunner
from masactrl.puppets.measured import (
    EditFigures,
    EditGrid,
    EditSide,
    EditTask,
    PromptAgreement,
)
from masactrl.puppets.scene import ACTIONS, FACINGS, PLACES, SPECIES

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = [
    "ASKED",
    "EditFigures",
    "EditGrid",
    "EditSide",
    "EditTask",
    "OnProgress",
    "PromptAgreement",
    "measure_edits",
    "measure_grid",
    "measure_prompts",
    "sample_edits",
]

ASKED: Final = ("species", "action", "facing", "place")  # what a prompt says
_CLOSE_UP: Final = "close-up"
_SAMPLES: Final = 16  # pictures, or rows of pictures, that a result keeps

#: Called with (pictures or pairs done, all of them).
OnProgress = Callable[[int, int], None]


def sample_edits(count: int, seed: int, *, spare: bool = False) -> tuple[EditTask, ...]:
    """Draw edits: everything uniform, the target's action never the source's.

    Args:
        count: how many, at least 1.
        seed: the same seed, the same edits, spare or not.
        spare: target prompts leave place and facing out.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}.")
    generator = torch.Generator().manual_seed(seed)

    def pick(options: Sequence[str]) -> str:
        return options[int(torch.randint(len(options), (), generator=generator))]

    tasks = []
    for _ in range(count):
        species, place, facing, source = (
            pick(options) for options in (SPECIES, PLACES, FACINGS, ACTIONS)
        )
        target = pick([action for action in ACTIONS if action != source])
        tasks.append(
            EditTask(
                species=species,
                place=place,
                facing=facing,
                source_action=source,
                target_action=target,
                spare=spare,
            )
        )
    return tuple(tasks)


def measure_prompts(
    pipeline: StableDiffusionPipeline,
    inspector: Inspector,
    *,
    count: int = 400,
    close_ups: int = 0,
    steps: int = 50,
    guidance: float = 5.0,
    batch: int = 16,
    seed: int = 0,
    size: int | None = None,
    on_progress: OnProgress | None = None,
) -> PromptAgreement:
    """Make pictures of prompts that name all four of `ASKED`, and let the inspector judge them.

    Of the shot it is told how often a close-up comes unasked, and how often where it is asked for.

    Args:
        pipeline: its scheduler is used as it is.
        inspector: reads the pictures.
        count: prompts, one picture each, at least 1.
        close_ups: further prompts that ask for a close-up.
        steps: denoising steps.
        guidance: weight of classifier-free guidance; 1 switches it off.
        batch: pictures made at once; the figures depend on it by rounding only.
        seed: of prompts and noise.
        size: side of the pictures in pixels; None is the model's own.
        on_progress: called after every batch.

    Raises:
        ConfigError: ``count`` or ``batch`` is below 1.
    """
    _check(count=count, batch=batch)
    tasks = sample_prompts(count, seed)
    runner = PipelineRunner.of(pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    confusion = {
        q: torch.zeros(len(QUESTIONS[q]), len(QUESTIONS[q]), dtype=torch.long) for q in ASKED
    }
    right: dict[str, list[bool]] = {q: [] for q in (*ASKED, "all")}
    near: list[bool] = []
    samples: list[Tensor] = []
    for at in range(0, count, batch):
        part = tasks[at : at + batch]
        made = runner.pictures([t.prompt for t in part], runner.noise(len(part)))
        samples.extend(made[: max(0, _SAMPLES - at)])
        reading = inspector.read(made)
        near += [shot == _CLOSE_UP for shot in reading.shot]
        hits = []
        for q in ASKED:
            asked = [getattr(task, q) for task in part]
            seen = getattr(reading, q)
            hits.append([a == s for a, s in zip(asked, seen, strict=True)])
            right[q] += hits[-1]
            for a, s in zip(asked, seen, strict=True):
                confusion[q][QUESTIONS[q].index(a), QUESTIONS[q].index(s)] += 1
        right["all"] += [all(each) for each in zip(*hits, strict=True)]
        if on_progress is not None:
            on_progress(at + len(part), count + close_ups)
    asked_near: list[bool] = []
    further = sample_prompts(close_ups, seed + 1, close_up=True)
    for at in range(0, close_ups, batch):
        prompts = [task.prompt for task in further[at : at + batch]]
        shots = inspector.read(runner.pictures(prompts, runner.noise(len(prompts)))).shot
        asked_near += [shot == _CLOSE_UP for shot in shots]
        if on_progress is not None:
            on_progress(count + at + len(prompts), count + close_ups)
    return PromptAgreement(
        count=count,
        shares={q: sum(values) / count for q, values in right.items()},
        close_up_unasked=sum(near) / count,
        close_up_asked=sum(asked_near) / close_ups if close_ups else None,
        confusion=confusion,
        tasks=tasks[: len(samples)],
        readings=inspector.read(torch.stack(samples)),
        samples=torch.stack(samples),
    )


def measure_edits(
    pipeline: StableDiffusionPipeline,
    inspector: Inspector,
    *,
    start_step: int,
    start_layer: int,
    pairs: int = 200,
    steps: int = 50,
    guidance: float = 5.0,
    batch: int = 24,
    seed: int = 0,
    size: int | None = None,
    spare: bool = False,
    on_progress: OnProgress | None = None,
) -> EditFigures:
    """Edit the action with and without mutual self-attention, from one noise in one batch.

    Args:
        pipeline: its scheduler is used as it is.
        inspector: reads the pictures.
        start_step, start_layer: S and L of the control.
        pairs: sources, one target each, at least 1.
        steps: denoising steps.
        guidance: weight of classifier-free guidance; 1 switches it off.
        batch: pictures made at once, three for a pair.
        seed: of tasks and noise.
        size: side of the pictures in pixels; None is the model's own.
        spare: target prompts leave place and facing out.
        on_progress: called after every batch with pairs.

    Raises:
        ConfigError: ``pairs`` or ``batch`` is below 1.
        ScheduleError: the run has no such step or the model no such layer.
    """
    _check(pairs=pairs, batch=batch)
    tasks = sample_edits(pairs, seed, spare=spare)
    runner = PipelineRunner.of(pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    control = MasaCtrl(schedule=Schedule(start_step=start_step, start_layer=start_layer))
    controlled, uncontrolled = Means(), Means()
    source_right: list[bool] = []
    samples: list[Tensor] = []
    for part in _chunks(tasks, max(1, batch // 3)):
        n = len(part)
        # n sources, n targets that read them, the same n targets that read themselves
        reads = [*range(n), *range(n), *range(2 * n, 3 * n)]
        prompts = [t.source_prompt for t in part] + [t.target_prompt for t in part] * 2
        with control.attach(pipeline, Rows(images=3 * n, reads=tuple((r,) for r in reads))):
            made = runner.pictures(prompts, runner.noise(n).repeat(3, 1, 1, 1))
        judged = [JudgedBatch(pictures, inspector.read(pictures)) for pictures in made.split(n)]
        controlled.add(part, judged[0], judged[1])
        uncontrolled.add(part, judged[0], judged[2])
        for task, seen in zip(part, judged[0].reading.action, strict=True):
            source_right.append(task.source_action == seen)
        samples.extend(made.unflatten(0, (3, n)).transpose(0, 1)[: _SAMPLES - len(samples)])
        if on_progress is not None:
            on_progress(len(source_right), pairs)
    return EditFigures(
        pairs=pairs,
        start_step=start_step,
        start_layer=start_layer,
        controlled=controlled.side(),
        uncontrolled=uncontrolled.side(),
        source_action=sum(source_right) / pairs,
        tasks=tasks[: len(samples)],
        samples=torch.stack(samples),
    )


def measure_grid(
    pipeline: StableDiffusionPipeline,
    inspector: Inspector,
    *,
    start_steps: Sequence[int],
    start_layers: Sequence[int],
    pairs: int = 24,
    steps: int = 50,
    guidance: float = 5.0,
    batch: int = 16,
    seed: int = 0,
    size: int | None = None,
    spare: bool = False,
    on_progress: OnProgress | None = None,
) -> EditGrid:
    """The figures of the same edits for every S in ``start_steps`` and L in ``start_layers``.

    Sources are recorded once and read by all cells, so that a cell costs one picture a pair; the
    recording takes about 80 MB a pair of ``batch`` at 128 pixels and 50 steps. For the other
    arguments and errors see `measure_edits`; progress counts pairs of all cells together.
    """
    _check(pairs=pairs, batch=batch, start_steps=len(start_steps), start_layers=len(start_layers))
    tasks = sample_edits(pairs, seed, spare=spare)
    runner = PipelineRunner.of(pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    cells = {(s, layer): Means() for s in start_steps for layer in start_layers}
    uncontrolled = Means()
    widest = MasaCtrl(schedule=Schedule(start_step=min(start_steps), start_layer=min(start_layers)))
    done = 0
    for part in _chunks(tasks, batch):
        n = len(part)
        noise = runner.noise(n)
        with widest.record(pipeline, sources=n) as recorded:
            source = JudgedBatch.of(
                runner.pictures([t.source_prompt for t in part], noise), inspector
            )
        targets = [t.target_prompt for t in part]
        uncontrolled.add(part, source, JudgedBatch.of(runner.pictures(targets, noise), inspector))
        rows = Rows(images=n, reads=tuple((n + k,) for k in range(n)), cached=n)
        for (start_step, start_layer), tally in cells.items():
            control = MasaCtrl(schedule=Schedule(start_step=start_step, start_layer=start_layer))
            with control.attach(pipeline, rows, source=recorded):
                made = runner.pictures(targets, noise)
            tally.add(part, source, JudgedBatch.of(made, inspector))
            done += n
            if on_progress is not None:
                on_progress(done, pairs * len(cells))
    return EditGrid(
        pairs=pairs,
        start_steps=tuple(start_steps),
        start_layers=tuple(start_layers),
        cells=tuple(tuple(cells[s, layer].side() for layer in start_layers) for s in start_steps),
        uncontrolled=uncontrolled.side(),
    )


def _chunks(tasks: Sequence[EditTask], size: int) -> list[Sequence[EditTask]]:
    return [tasks[at : at + size] for at in range(0, len(tasks), size)]


def _check(**least_one: int) -> None:
    for name, value in least_one.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}.")
