"""PuppetBench's run: sources once, then every column's edits of them, judged and written down.

nothing        the source again, unchanged        preservation figures reward this
prompt-only    the target prompt from other noise  following the prompt rewards this
fixed-seed     the target prompt from the source's noise
right answer   the exact target through the VAE    of rendered sources only
...            methods, from the source's noise

Of tasks of the kind layout, prompt-only, fixed-seed and the methods are given the layout; a column
written with layout=no is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from masactrl.batch.ledger import ITEMS, Ledger
from masactrl.batch.processes import in_parallel
from masactrl.bench.puppet_figures import BOUNDS, JOINTS, judge, right_answers
from masactrl.bench.puppet_settings import (
    BASELINES,
    RIGHT,
    Column,
    PuppetSettings,
    picture_path,
)
from masactrl.bench.puppet_sources import Batch, BenchContext, Edited, Item, Rendered, Synthesised
from masactrl.bench.puppet_tasks import LAYOUT
from masactrl.errors import ConfigError
from masactrl.layouts.networks import load_network
from masactrl.pictures.images import save_png, tensor_to_image
from masactrl.puppets.judging import JudgedBatch
from masactrl.runs.inversion_request import draws_noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from masactrl.bench.puppet_tasks import PuppetTask
    from masactrl.methods import Method
    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.renderer import Rendered as Drawn

__all__ = ["BASELINES", "RIGHT", "Column", "PuppetSettings", "picture_path", "run_puppets"]


def run_puppets(
    model: LoadedModel,
    inspector: Inspector,
    tasks: Sequence[PuppetTask],
    settings: PuppetSettings,
    folder: Path,
    *,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Ledger:
    """Run tasks of both halves, write every item to `folder/items.jsonl`, and return all items.

    What an earlier run in the same folder finished is not run again. A column that fails on an
    item leaves a row with the reason, and the run goes on. For `workers` see `in_parallel`; the
    seconds of items then are those of a share of the cores.

    Raises:
        ConfigError: the folder holds a run with other settings, another run is at work in it, an
            option is unknown, or a method cannot take the layouts of the tasks.
        ModelNotFound: there is no network for layouts.
        UnsupportedPipeline: the model takes none.
    """
    guidance = model.preset.guidance_scale if settings.guidance is None else settings.guidance
    columns = {column.label: column for column in settings.columns}
    methods = {label: column.build(model, settings.steps) for label, column in columns.items()}
    for label, method in methods.items():  # refuse what cannot be, before the run
        if method.start is not None:
            method.start.first_step(settings.steps)
        if any(task.half == "rendered" for task in tasks):
            columns[label].request("any", guidance=guidance, seed=0)
        elif columns[label].fresh_noise:
            raise ConfigError(
                f"{label} was asked for, and no source is inverted; ask for --half rendered."
            )
    posed = any(task.kind == LAYOUT for task in tasks)
    _check_layouts(settings, methods, posed=posed)
    own = settings.layout_model
    context = BenchContext(
        model=model,
        settings=settings,
        guidance=guidance,
        methods=methods,
        columns=columns,
        networks={("pose", own): load_network(model, "pose", own)} if posed else {},
    )
    bench = _Bench(context, inspector, _shown(tasks, settings.pictures), folder)
    total, jobs = len(tasks) * settings.seeds, []
    keys = ("task", "seed", "column")
    with Ledger.alone(folder / ITEMS, keys, _facts(context, tasks)) as ledger:
        for items in _batches(tasks, settings):
            todo = _todo(context, items, ledger)
            if todo:
                jobs.append(_Job(items=tuple(items), todo=todo))
        done = total - sum(len(job.items) for job in jobs)
        for job, rows in in_parallel(bench, jobs, workers):
            for row in rows:
                ledger.add(row)
            done += len(job.items)
            if on_progress is not None:
                on_progress(done, total)
    return ledger


def _check_layouts(settings: PuppetSettings, methods: Mapping[str, Method], *, posed: bool) -> None:
    """Refuse columns that no task of the run could be edited by, and a network that none needs."""
    if settings.layout_model is not None and not posed:
        raise ConfigError(
            "A network for layouts was named, and no task has one; ask for --kind layout."
        )
    for column in settings.columns:
        if column.layout and posed and methods[column.label].start is not None:
            raise ConfigError(
                f"{column.label} takes no layout, and tasks have one; leave it out, or write "
                f"{column.method}:layout=no, which runs it without."
            )
        if not column.layout and not posed:
            raise ConfigError(
                f"{column.label} was asked for, and no task has a layout; ask for --kind layout."
            )


def _batches(tasks: Sequence[PuppetTask], settings: PuppetSettings) -> Iterator[list[Item]]:
    """Batches of one half each: seed by seed, or, where a source is inverted, task by task."""
    made = [task for task in tasks if task.half == "synthesised"]
    drawn = [task for task in tasks if task.half == "rendered"]
    seeds = range(settings.seeds)
    for items in (
        [(task, seed) for seed in seeds for task in made if task.kind != LAYOUT],
        [(task, seed) for seed in seeds for task in made if task.kind == LAYOUT],
        [(task, seed) for task in drawn for seed in seeds if task.kind != LAYOUT],
        [(task, seed) for task in drawn for seed in seeds if task.kind == LAYOUT],
    ):
        for at in range(0, len(items), settings.batch):
            yield items[at : at + settings.batch]


def _facts(context: BenchContext, tasks: Sequence[PuppetTask]) -> dict[str, Any]:
    """What a folder's items have in common."""
    model, settings = context.model, context.settings
    facts = {
        "benchmark": "puppets-1",
        "model": model.name,
        "weights": model.origin.weights,
        "dtype": model.dtype,
        "steps": settings.steps,
        "guidance": context.guidance,
        "preset": asdict(model.preset),
        "bounds": asdict(BOUNDS),
    }
    if any(task.half == "rendered" for task in tasks):
        facts["inversion"] = settings.inversion
    if any(task.kind == LAYOUT for task in tasks):
        facts["layouts"] = {"joints": JOINTS, "model": settings.layout_model}
    return facts


def _shown(tasks: Sequence[PuppetTask], pictures: int) -> frozenset[str]:
    """Keys of the tasks whose pictures are kept: the first so many of each half."""
    halves = ("synthesised", "rendered")
    keys = [[task.key for task in tasks if task.half == half] for half in halves]
    return frozenset(key for found in keys for key in found[:pictures])


def _todo(
    context: BenchContext, items: Sequence[Item], ledger: Ledger
) -> dict[str, tuple[int, ...]]:
    """By column the items that are to be done."""
    rendered = items[0][0].half == "rendered"
    posed = items[0][0].kind == LAYOUT
    methods = [
        label
        for label, one in context.columns.items()
        if (one.layout or posed) and (rendered or not one.fresh_noise)
    ]
    labels = [*BASELINES, *([RIGHT] if rendered else []), *methods]
    found = {
        label: tuple(
            number
            for number, (task, seed) in enumerate(items)
            if (not rendered or seed == 0 or _draws(context, label))
            and not ledger.done(task.key, seed, label)
        )
        for label in labels
    }
    return {label: numbers for label, numbers in found.items() if numbers}


def _draws(context: BenchContext, label: str) -> bool:
    """Whether a column's edit of a rendered source is another one with another seed."""
    if label in ("nothing", RIGHT):
        return False
    column = context.columns.get(label)
    drawn = label == "prompt-only" or (column is not None and column.draws())
    return drawn or draws_noise(context.settings.inversion)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One batch of one half, and by column the items that are to be done."""

    items: tuple[Item, ...]
    todo: Mapping[str, tuple[int, ...]]


class _Bench:
    def __init__(
        self, context: BenchContext, inspector: Inspector, shown: frozenset[str], folder: Path
    ) -> None:
        self.context, self.inspector, self.folder = context, inspector, folder
        self._shown = shown
        self._answers: dict[str, Drawn] = {}

    def __call__(self, job: _Job) -> list[dict[str, Any]]:
        """The rows of one batch."""
        items = job.items
        self._answers.clear()  # 24 drawn pictures a task: those of one batch are enough
        rendered = items[0][0].half == "rendered"
        batch = (Rendered if rendered else Synthesised)(self.context, items)
        self._keep(items, range(len(items)), "source", batch.sources)
        if items[0][0].kind == LAYOUT:
            shown = self.context.skeletons([task for task, _ in items])
            self._keep(items, range(len(items)), "layout", shown)
        rows: list[dict[str, Any]] = []
        judged: dict[tuple[int, ...], JudgedBatch] = {}
        for label, numbers in job.todo.items():
            made = batch.make(label, numbers)
            for number, reason in made.failed.items():
                task, seed = items[number]
                rows.append({"task": task.key, "seed": seed, "column": label, "error": reason})
            if not made.numbers:
                continue
            if made.numbers not in judged:
                chosen = batch.sources[list(made.numbers)]
                judged[made.numbers] = JudgedBatch.of(chosen, self.inspector)
            rows += self._judged(items, label, batch, judged[made.numbers], made)
            self._keep(items, made.numbers, label, made.pictures)
        return rows

    def _judged(
        self, items: Sequence[Item], label: str, batch: Batch, source: JudgedBatch, made: Edited
    ) -> list[dict[str, Any]]:
        chosen = [items[number] for number in made.numbers]
        tasks = [task for task, _ in chosen]
        target = JudgedBatch.of(made.pictures, self.inspector)
        answers = [self._right(task, target.pictures.shape[-1]) for task in tasks]
        masks = None if batch.masks is None else batch.masks[list(made.numbers)]
        figures = judge(tasks, source, target, answers, source_masks=masks)
        return [
            {
                "task": task.key,
                "kind": task.kind,
                "split": task.split,
                "half": task.half,
                "seed": seed,
                "column": label,
                "figures": one.values(),
                "seconds": round(made.seconds, 4),
            }
            for (task, seed), one in zip(chosen, figures, strict=True)
        ]

    def _keep(
        self, items: Sequence[Item], numbers: Sequence[int], label: str, pictures: Tensor
    ) -> None:
        for picture, number in zip(pictures, numbers, strict=True):
            task, seed = items[number]
            if seed or task.key not in self._shown:
                continue
            path = picture_path(self.folder, task.key, seed, label)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, tensor_to_image(picture, signed=False))

    def _right(self, task: PuppetTask, size: int) -> Drawn:
        if task.key not in self._answers:
            self._answers[task.key] = right_answers(task, size)
        return self._answers[task.key]
