"""The forms of the control side by side, where masks should help: coats that look like the ground.

Masks keep foreground and background from mixing (the paper's Eq. 6 to 8), which is to be feared
where the two look alike. So of many sources those are kept whose coat is nearest to the mean colour
of their background, as the inspector reads it, and every form edits the same ones from the same
noise. The given masks come from a first pass: source and unmasked result as the inspector cuts them
out. The automatic ones come from the attention to the word of the species.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from masactrl.attention import GivenMasks, Rows, RunReport, Schedule, SourceFeatures, WordMasks
from masactrl.bench.model_measure import OnProgress, sample_edits
from masactrl.errors import ConfigError, ControlWarning
from masactrl.methods import MasaCtrl
from masactrl.puppets.colour import lab_distance
from masactrl.puppets.judging import JudgedBatch, Means, PipelineRunner, background_lab
from masactrl.puppets.measured import EditTask, FormFigures

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from masactrl.puppets.inspector import Inspector

__all__ = ["FORMS", "measure_forms"]

FORMS: Final = ("no control", "replace", "union", "masked", "auto-masked")
_SAMPLES: Final = 12  # rows of pictures that a result keeps


def measure_forms(
    pipeline: StableDiffusionPipeline,
    inspector: Inspector,
    *,
    start_step: int,
    start_layer: int,
    pairs: int = 24,
    candidates: int | None = None,
    threshold: float = 0.1,
    capture_scale: int = 4,
    steps: int = 50,
    guidance: float = 5.0,
    batch: int = 16,
    seed: int = 0,
    size: int | None = None,
    on_progress: OnProgress | None = None,
) -> FormFigures:
    """Edit the same sources with each of `FORMS`.

    Args:
        pipeline: its scheduler is used as it is.
        inspector: reads the pictures.
        start_step, start_layer: S and L of every form.
        pairs: sources that are kept, one target each, at least 1.
        candidates: sources to choose them from, at least ``pairs``; None is four times as many.
        threshold, capture_scale: of the automatic masks, see `WordMasks`.
        steps: denoising steps.
        guidance: weight of classifier-free guidance; 1 switches it off.
        batch: pictures made at once.
        seed: of tasks and noise.
        size: side of the pictures in pixels; None is the model's own.
        on_progress: called after every batch, counting pictures of all kinds.

    Raises:
        ConfigError: a count is out of range.
        ScheduleError: the run has no such step or the model no such layer.
        MaskError: ``start_layer`` comes before the first attention map.
    """
    candidates = 4 * pairs if candidates is None else candidates
    if pairs < 1 or batch < 1 or candidates < pairs:
        raise ConfigError(
            f"pairs={pairs}, candidates={candidates} and batch={batch} were given; accepted are at "
            "least 1 pair, at least as many candidates, and batches of at least 1."
        )
    runner = PipelineRunner.of(pipeline, steps=steps, guidance=guidance, size=size, seed=seed)
    total, done = candidates + pairs * (1 + len(FORMS)), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    asked = sample_edits(candidates, seed)
    noise = runner.noise(candidates)
    distance = torch.cat(
        [
            _coat_to_ground(runner, inspector, asked[part], noise[part], tell)
            for part in _parts(candidates, batch)
        ]
    )
    chosen = distance.argsort(stable=True)[:pairs]
    tasks, noise = tuple(asked[k] for k in chosen.tolist()), noise[chosen.to(noise.device)]
    maker = _Maker(pipeline, runner, inspector, start_step, start_layer, threshold, capture_scale)
    tallies = {form: Means() for form in FORMS}
    samples: list[Tensor] = []
    for part in _parts(pairs, batch):
        source, judged = maker.judged(tasks[part], noise[part])
        for form, made in judged.items():
            tallies[form].add(tasks[part], source, made)
        rows = torch.stack([source.pictures, *(judged[form].pictures for form in FORMS)], 1)
        samples.extend(rows[: max(0, _SAMPLES - len(samples))])
        tell(len(source.pictures) * (1 + len(FORMS)))
    return FormFigures(
        pairs=pairs,
        candidates=candidates,
        start_step=start_step,
        start_layer=start_layer,
        alike=distance[chosen].mean().item(),
        typical=distance.mean().item(),
        useless=sum(maker.useless) / max(1, len(maker.useless)),
        sides={form: tally.side() for form, tally in tallies.items()},
        tasks=tasks[: len(samples)],
        samples=torch.stack(samples),
    )


class _Maker:
    """Makes the sources of a batch once and their targets in every form."""

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        runner: PipelineRunner,
        inspector: Inspector,
        start_step: int,
        start_layer: int,
        threshold: float,
        capture_scale: int,
    ) -> None:
        self._pipeline, self._runner, self._inspector = pipeline, runner, inspector
        self._schedule = Schedule(start_step=start_step, start_layer=start_layer)
        self._threshold, self._capture_scale = threshold, capture_scale
        self.useless: list[bool] = []  # of every automatic mask, whether it separated nothing

    def judged(
        self, tasks: Sequence[EditTask], noise: Tensor
    ) -> tuple[JudgedBatch, dict[str, JudgedBatch]]:
        """The sources, and the targets by form."""
        words = tuple(task.species for task in tasks)
        named = WordMasks(
            words=words,
            prompts=tuple(task.target_prompt for task in tasks),
            source_words=words,
            source_prompts=tuple(task.source_prompt for task in tasks),
            threshold=self._threshold,
            capture_scale=self._capture_scale,
        )
        auto = MasaCtrl(schedule=self._schedule, masks=named)
        with auto.record(self._pipeline, sources=len(tasks)) as recorded:
            source = self._judged([task.source_prompt for task in tasks], noise)
        prompts = [task.target_prompt for task in tasks]
        made = {"no control": self._judged(prompts, noise)}

        def controlled(control: MasaCtrl) -> JudgedBatch:
            return self._controlled(control, prompts, noise, recorded)

        made["replace"] = controlled(MasaCtrl(schedule=self._schedule))
        made["union"] = controlled(MasaCtrl(schedule=self._schedule, form="union"))
        cut = GivenMasks(
            images=tuple(made["replace"].reading.mask[:, 0]),
            sources=tuple(source.reading.mask[:, 0]),
        )
        made["masked"] = controlled(MasaCtrl(schedule=self._schedule, masks=cut))
        made["auto-masked"] = controlled(auto)
        return source, made

    def _judged(self, prompts: Sequence[str], noise: Tensor) -> JudgedBatch:
        return JudgedBatch.of(self._runner.pictures(prompts, noise), self._inspector)

    def _controlled(
        self, control: MasaCtrl, prompts: Sequence[str], noise: Tensor, recorded: SourceFeatures
    ) -> JudgedBatch:
        n = len(prompts)
        rows = Rows(images=n, reads=tuple((n + k,) for k in range(n)), cached=n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ControlWarning)  # useless masks are counted instead
            with control.attach(self._pipeline, rows, source=recorded) as attached:
                judged = self._judged(prompts, noise)
        if isinstance(control.masks, WordMasks):
            self._count(attached.report)
        return judged

    def _count(self, report: RunReport) -> None:
        for masks in report.masks.values():
            share = masks.float().mean((1, 2))
            self.useless += ((share == 0) | (share == 1)).tolist()


def _coat_to_ground(
    runner: PipelineRunner,
    inspector: Inspector,
    tasks: Sequence[EditTask],
    noise: Tensor,
    tell: Callable[[int], None],
) -> Tensor:
    """(n,) CIELAB distance between the coats of the sources and their backgrounds."""
    made = JudgedBatch.of(runner.pictures([task.source_prompt for task in tasks], noise), inspector)
    tell(len(tasks))
    ground = background_lab(made.pictures, made.reading.mask)
    return lab_distance(made.reading.coat, ground)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]
