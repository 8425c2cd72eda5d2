"""Real pictures with a known right answer: every inversion on rendered scenes never trained on.

A picture is drawn, inverted, and edited to another action. What the edit had to keep is known to
the pixel: the target is the same scene acting otherwise, so the background is compared outside both
exact masks, and the rows say what is at stake and what can be had:

    doing nothing     the source itself              keeps all, edits nothing
    prompt only       the target prompt from noise   edits, keeps nothing
    ground truth      the drawn target through the VAE, what no edit by this model can exceed
    ...               one row per inversion, each replaying as it does by default; with steps, a
                      method or guidance of its own where its name says so
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from masactrl.batch.ledger import ITEMS, Ledger
from masactrl.batch.processes import in_parallel
from masactrl.bench.real_tasks import (
    BASELINES,
    NEEDS_PROMPT,
    RealRow,
    RealSettings,
    RealTask,
    picture_path,
    real_tasks,
)
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError
from masactrl.methods import method_named
from masactrl.models.denoiser import Denoiser
from masactrl.pictures.images import image_to_tensor, save_png, tensor_to_image
from masactrl.puppets.identity import identity
from masactrl.puppets.judging import JudgedBatch, PipelineRunner, background_psnr
from masactrl.puppets.renderer import render
from masactrl.runs.inversion_request import draws_noise
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.method_choice import aligns_words

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector

__all__ = ["BASELINES", "RealSettings", "RealTask", "measure_real", "picture_path", "real_tasks"]


def measure_real(
    model: LoadedModel,
    inspector: Inspector,
    settings: RealSettings,
    folder: Path,
    *,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Ledger:
    """Edit every picture after every inversion and judge the edits; return a row for each.

    Rows are written to `folder/items.jsonl` as they are finished, and a run that was stopped goes
    on there. An inversion that fails on a picture leaves a row with the reason.

    Args:
        model: whose edits.
        inspector: reads the pictures.
        settings: see `RealSettings`.
        folder: of rows, settings and the pictures that are kept.
        workers: processes, see `in_parallel`; seconds then are those of a share of the cores.
        on_progress: called after every picture with (pictures done, all).

    Raises:
        ConfigError: the folder holds a run with other settings, another run is at work in it, or S,
            L or another setting does not fit the model.
    """
    preset = model.preset
    steps = preset.steps if settings.steps is None else settings.steps
    request = EditRequest(
        target_prompts=("any",),
        guidance_scale=settings.guidance,
        start_step=settings.start_step,
        start_layer=settings.start_layer,
        compare=False,
    )
    resolved = request.resolve(preset, steps)
    facts = {
        "benchmark": "real-1",
        "model": model.name,
        "weights": model.origin.weights,
        "dtype": model.dtype,
        "steps": steps,
        "guidance": resolved.guidance_scale,
        "start_step": resolved.start_step,
        "start_layer": resolved.start_layer,
        "seed": settings.seed,
    }
    bench = _Bench(
        model=model,
        inspector=inspector,
        settings=settings,
        steps=steps,
        guidance=resolved.guidance_scale,
        request=request,
        folder=folder,
    )
    names, jobs = (*BASELINES, *settings.inversions), []
    with Ledger.alone(folder / ITEMS, ("task", "row"), facts) as ledger:
        for number, task in enumerate(real_tasks(settings.count, settings.seed)):
            missing = tuple(name for name in names if not ledger.done(task.key, name))
            if missing:
                jobs.append(_Job(task=task, names=missing, keep=number < settings.pictures))
        done = settings.count - len(jobs)
        for _, rows in in_parallel(bench, jobs, workers):
            for row in rows:
                ledger.add(row)
            done += 1
            if on_progress is not None:
                on_progress(done, settings.count)
    return ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One scene: the rows that are wanted, and whether their pictures are kept."""

    task: RealTask
    names: tuple[str, ...]
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    model: LoadedModel
    inspector: Inspector
    settings: RealSettings
    steps: int
    guidance: float
    request: EditRequest
    folder: Path

    def __call__(self, job: _Job) -> list[dict[str, Any]]:
        """The rows of one scene."""
        rows = []
        for row, picture in self._rows(job.task, job.names):
            rows.append(row)
            if picture is not None and job.keep:
                _keep(self.folder, job.task.key, str(row["row"]), picture)
        return rows

    def _rows(
        self, task: RealTask, names: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], Image.Image | None]]:
        """Rows, each with its picture where there is one."""
        size = self.model.preset.height, self.model.preset.width
        drawn = render([task.source, task.target], size)
        source = tensor_to_image(drawn.image[0], signed=False)
        animals = drawn.mask.amax(0, keepdim=True)
        was = JudgedBatch.of(_tensor(source), self.inspector)
        for name in names:
            row: dict[str, Any] = {"task": task.key, "row": name}
            try:
                picture, costs = self._edited(task, name, source, drawn.image[1])
            except MasaCtrlError as error:
                if isinstance(error, ConfigError):
                    raise  # the settings are wrong, for every picture
                yield {**row, "error": str(error)}, None
                continue
            figures = _judge(task, was, JudgedBatch.of(_tensor(picture), self.inspector), animals)
            yield {**row, "figures": {**costs, **figures}}, picture

    def _edited(
        self, task: RealTask, name: str, source: Image.Image, answer: Tensor
    ) -> tuple[Image.Image, dict[str, float | None]]:
        """The picture of a row, and what it cost."""
        started = time.perf_counter()
        passes, back, ceiling = 0, None, None
        if name == "doing nothing":
            picture = source
        elif name == "ground truth":
            denoiser = Denoiser(self.model.pipeline)
            there = denoiser.decode_image(denoiser.encode_image(answer[None] * 2 - 1))
            picture = tensor_to_image(there[0])
        elif name == "prompt only":
            picture = self._from_noise(task)
            passes = self.steps * (1 if self.guidance == 1 else 2)
        else:
            result = self._inverted(task, name, source)
            picture, passes = result.targets[0].controlled, sum(result.passes.values())
            back, ceiling = result.quality.psnr, result.quality.ceiling
        return picture, {
            "reconstruction": _finite(back),
            "ceiling": _finite(ceiling),
            "seconds": time.perf_counter() - started,
            "passes": float(passes),
        }

    def _inverted(self, task: RealTask, row: str, source: Image.Image) -> Any:
        said = RealRow.parse(row)
        name, drawn = said.inversion, draws_noise(said.inversion, said.options.get("fresh_steps"))
        ours = said.method == "masactrl"
        aligned = not ours and aligns_words(method_named(said.method))
        given: dict[str, Any] = {
            "source_prompt": task.source_prompt if aligned or name in NEEDS_PROMPT else "",
            "steps": self.steps,
            "seed": self.settings.seed if drawn else None,
        }
        try:
            asked = InversionRequest(method=name, **{**given, **said.options})
        except TypeError as error:
            raise ConfigError(f"{row!r} has an option that no inversion has: {error}.") from error
        # S and L are masactrl's.
        start = (self.request.start_step, self.request.start_layer) if ours else (None, None)
        request = EditRequest(
            target_prompts=(task.target_prompt,),
            method=said.method,
            guidance_scale=self.request.guidance_scale if said.away is None else said.away,
            negative_prompt=None if said.away is None else task.source_prompt,
            start_step=start[0],
            start_layer=start[1],
            fresh_noise=said.fresh_noise,
            seed=self.settings.seed if said.fresh_noise else None,
            compare=False,
        )
        with warnings.catch_warnings():
            # About words that a model does not know: the same for every picture.
            warnings.simplefilter("ignore", ControlWarning)
            return invert(self.model, source, asked, edit=request).edit(request)

    def _from_noise(self, task: RealTask) -> Image.Image:
        # Its own noise for each scene, whatever was run before.
        seed = 1_000_003 * (1 + self.settings.seed) + int(task.key)
        runner = PipelineRunner.of(
            self.model.pipeline, steps=self.steps, guidance=self.guidance, size=None, seed=seed
        )
        (picture,) = runner.pictures([task.target_prompt], runner.noise(1))
        return tensor_to_image(picture, signed=False)


def _judge(
    task: RealTask, was: JudgedBatch, seen: JudgedBatch, animals: Tensor
) -> Mapping[str, float]:
    """What an edit (one picture) did; `animals` (1, 1, h, w) covers source and right answer."""
    before, after = was.reading, seen.reading
    apart = identity(before, after)
    return {
        "action": float(after.action[0] == task.target.pose.action),
        "species": float(after.species[0] == task.source.identity.species),
        "identity": float(apart.error),
        "named": float(apart.named),
        "pattern": float(apart.pattern),
        "background": float(background_psnr(was.pictures, seen.pictures, animals)),
    }


def _tensor(picture: Image.Image) -> Tensor:
    """(1, 3, h, w) in [0, 1]."""
    return image_to_tensor(picture, signed=False)[None]


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; 99 dB is a picture that came back to the bit."""
    return None if value is None else min(value, 99.0)


def _keep(folder: Path, task: str, row: str, picture: Image.Image) -> None:
    path = picture_path(folder, task, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, picture)
