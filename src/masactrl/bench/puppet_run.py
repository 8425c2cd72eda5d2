"""PuppetBench's run: sources once, then every column's edits of them, judged and written down.

nothing        the source again, unchanged        preservation figures reward this
prompt-only    the target prompt from other noise  following the prompt rewards this
fixed-seed     the target prompt from the source's noise
...            methods, from the source's noise
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention import Schedule
from masactrl.bench.ledger import Ledger
from masactrl.bench.puppet_figures import BOUNDS, judge, right_answers
from masactrl.bench.puppet_tasks import PuppetTask
from masactrl.errors import ConfigError, MasaCtrlError
from masactrl.images import save_png, tensor_to_image
from masactrl.methods import FixedSeed, method_named
from masactrl.methods.running import run_method
from masactrl.puppets.judging import Shot

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.methods import Method
    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.renderer import Rendered

__all__ = ["BASELINES", "Column", "PuppetSettings", "picture_path", "run_puppets"]

BASELINES = ("nothing", "prompt-only", "fixed-seed")
"""Columns that are always there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One row of the table: a method with its options, under a label."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method's name, with its options where there are any."""
        named = ", ".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.method} ({named})" if named else self.method

    def build(self, model: LoadedModel, steps: int) -> Method:
        """The method; MasaCtrl takes its start from the model's preset where none is given."""
        if self.method != "masactrl":
            return method_named(self.method, **dict(self.options))
        options = dict(self.options)
        preset = model.preset
        usual = min(round(preset.start_step * steps / preset.steps), steps - 1)
        schedule = Schedule(
            start_step=int(options.pop("start_step", usual)),
            start_layer=int(options.pop("start_layer", preset.start_layer)),
        )
        return method_named("masactrl", schedule=schedule, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class PuppetSettings:
    """How the tasks are run.

    Attributes:
        columns: what is compared, beside `BASELINES`.
        steps: denoising steps, 1 to 1000.
        guidance: guidance scale; None is the model's.
        seeds: start noises per task, 1 to 16.
        batch: tasks in one batch, at least 1.
        pictures: of how many tasks pictures are kept, 0 and more.
    """

    columns: tuple[Column, ...]
    steps: int = 20
    guidance: float | None = None
    seeds: int = 4
    batch: int = 8
    pictures: int = 12

    def __post_init__(self) -> None:
        for name, least, most in (
            ("steps", 1, 1000),
            ("seeds", 1, 16),
            ("batch", 1, 1024),
            ("pictures", 0, 1000),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is {least} to {most}."
                )
        labels = [column.label for column in self.columns]
        if len({*labels, *BASELINES}) != len(labels) + len(BASELINES):
            raise ConfigError(
                "A column is there twice; nothing, prompt-only and fixed-seed always are."
            )


def run_puppets(
    model: LoadedModel,
    inspector: Inspector,
    tasks: Sequence[PuppetTask],
    settings: PuppetSettings,
    folder: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Ledger:
    """Run synthesised tasks, write every item to `folder/items.jsonl`, and return all items.

    What an earlier run in the same folder finished is not run again. A column that fails on a
    batch leaves rows with the reason, and the run goes on.

    Raises:
        ConfigError: the folder holds a run with other settings, an option is unknown, or a task
            has a rendered source.
    """
    if any(task.half != "synthesised" for task in tasks):
        raise ConfigError(
            "Tasks with a rendered source start from a picture; run_puppets makes its sources "
            "from prompts. Give tasks of the half 'synthesised'."
        )
    methods = {column.label: column.build(model, settings.steps) for column in settings.columns}
    for method in methods.values():
        if method.start is not None:
            method.start.first_step(settings.steps)  # refuses what leaves no step, before the run
    bench = _Bench(model, inspector, settings, methods, folder)
    todo = [(task, seed) for seed in range(settings.seeds) for task in tasks]
    done = 0
    for at in range(0, len(todo), settings.batch):
        part = todo[at : at + settings.batch]
        bench.run(part, first=at)
        done += len(part)
        if on_progress is not None:
            on_progress(done, len(todo))
    return bench.ledger


class _Bench:
    def __init__(
        self,
        model: LoadedModel,
        inspector: Inspector,
        settings: PuppetSettings,
        methods: Mapping[str, Method],
        folder: Path,
    ) -> None:
        self.model, self.inspector, self.settings = model, inspector, settings
        self.methods, self.folder = methods, folder
        guidance = model.preset.guidance_scale if settings.guidance is None else settings.guidance
        self.guidance = guidance
        facts = {
            "benchmark": "puppets-1",
            "model": model.name,
            "steps": settings.steps,
            "guidance": guidance,
            "preset": asdict(model.preset),
            "bounds": asdict(BOUNDS),
        }
        self.ledger = Ledger(folder, facts, ("task", "seed", "column"))
        self._answers: dict[str, Rendered] = {}

    def run(self, part: Sequence[tuple[PuppetTask, int]], *, first: int) -> None:
        """One batch of (task, seed): the baselines, then every column that is not finished."""
        labels = [*BASELINES, *self.methods]
        missing = [
            label
            for label in labels
            if not all(self.ledger.done(task.key, seed, label) for task, seed in part)
        ]
        if not missing:
            return
        tasks = [task for task, _ in part]
        keep = [number for number in range(len(part)) if first + number < self.settings.pictures]
        noise = torch.stack([self._noise(task.noise_seed + seed) for task, seed in part])
        started = time.perf_counter()
        source_prompts = [task.source_prompt for task in tasks]
        made = run_method(
            self.model.pipeline,
            FixedSeed(),
            source_prompts=source_prompts,
            target_prompts=[task.target_prompt for task in tasks],
            noise=noise,
            steps=self.settings.steps,
            call=self._call,
        )
        seconds = (time.perf_counter() - started) / (2 * len(part))
        if made.sources is None:
            raise MasaCtrlError("The sources were not made.")
        source = Shot.of(made.sources, self.inspector)
        self._keep(part, keep, "source", made.sources)
        for label in missing:
            begun = time.perf_counter()
            try:
                if label == "nothing":
                    pictures, spent = made.sources, 0.0
                elif label == "fixed-seed":
                    pictures, spent = made.targets, seconds
                elif label == "prompt-only":
                    others = [self._noise(t.noise_seed + 16 + seed) for t, seed in part]
                    prompts = [task.target_prompt for task in tasks]
                    pictures = self._call(prompts, torch.stack(others), None)
                    spent = (time.perf_counter() - begun) / len(part)
                else:
                    pictures = run_method(
                        self.model.pipeline,
                        self.methods[label],
                        source_prompts=source_prompts,
                        target_prompts=[task.target_prompt for task in tasks],
                        noise=noise,
                        steps=self.settings.steps,
                        call=self._call,
                        source_latents=made.source_latents,
                    ).targets
                    spent = (time.perf_counter() - begun) / len(part)
                target = Shot.of(pictures, self.inspector)
            except MasaCtrlError as error:
                self._fail(part, label, error)
                continue
            self._note(part, label, source, target, spent)
            self._keep(part, keep, label, pictures)

    def _note(
        self,
        part: Sequence[tuple[PuppetTask, int]],
        label: str,
        source: Shot,
        target: Shot,
        seconds: float,
    ) -> None:
        answers = [self._right(task, target.pictures.shape[-1]) for task, _ in part]
        figures = judge([task for task, _ in part], source, target, answers)
        for (task, seed), one in zip(part, figures, strict=True):
            self.ledger.add(
                {
                    "task": task.key,
                    "kind": task.kind,
                    "split": task.split,
                    "half": task.half,
                    "seed": seed,
                    "column": label,
                    "figures": one.values(),
                    "seconds": round(seconds, 4),
                }
            )

    def _fail(
        self, part: Sequence[tuple[PuppetTask, int]], label: str, error: MasaCtrlError
    ) -> None:
        for task, seed in part:
            row = {"task": task.key, "seed": seed, "column": label, "error": str(error)}
            self.ledger.add(row)

    def _keep(
        self,
        part: Sequence[tuple[PuppetTask, int]],
        keep: Sequence[int],
        label: str,
        pictures: Tensor,
    ) -> None:
        for number in keep:
            task, seed = part[number]
            path = picture_path(self.folder, task.key, seed, label)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, tensor_to_image(pictures[number], signed=False))

    def _right(self, task: PuppetTask, size: int) -> Rendered:
        if task.key not in self._answers:
            if len(self._answers) > 256:
                self._answers.clear()
            self._answers[task.key] = right_answers(task, size)
        return self._answers[task.key]

    def _noise(self, seed: int) -> Tensor:
        pipeline, preset = self.model.pipeline, self.model.preset
        factor = pipeline.vae_scale_factor
        shape = (
            pipeline.unet.config.in_channels,
            preset.height // factor,
            preset.width // factor,
        )
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator).to(pipeline.device, pipeline.unet.dtype)

    def _call(self, prompts: Sequence[str], latents: Tensor, callback: Any) -> Tensor:
        preset = self.model.preset
        result: Any = self.model.pipeline(
            prompt=list(prompts),
            height=preset.height,
            width=preset.width,
            num_inference_steps=self.settings.steps,
            guidance_scale=self.guidance,
            latents=latents,
            output_type="pt",
            callback_on_step_end=callback,
        )
        pictures: Tensor = result.images
        return pictures.float().cpu()


def picture_path(folder: Path, task: str, seed: int, label: str) -> Path:
    """Where the picture of an item is kept, where it is."""
    safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in label)
    return folder / "pictures" / f"{task}-{seed}-{safe}.png"
