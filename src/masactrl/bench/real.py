"""Real pictures with a known right answer: every inversion on rendered scenes never trained on.

A picture is drawn, inverted, and edited to another action. What the edit had to keep is known to
the pixel: the target is the same scene acting otherwise, so the background is compared outside both
exact masks, and the rows say what is at stake and what can be had:

    doing nothing     the source itself              keeps all, edits nothing
    prompt only       the target prompt from noise   edits, keeps nothing
    ground truth      the drawn target through the VAE, what no edit by this model can exceed
    ...               one row per inversion, each replaying as it does by default
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.bench.ledger import Ledger
from masactrl.edit import EditRequest, InversionRequest, invert
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError
from masactrl.images import image_to_tensor, save_png, tensor_to_image
from masactrl.inversion import INVERSIONS
from masactrl.models.denoiser import Denoiser
from masactrl.puppets.captions import full_prompt
from masactrl.puppets.colour import lab_distance
from masactrl.puppets.data import HELD_OUT_SEED
from masactrl.puppets.judging import Shot, Studio, background_psnr
from masactrl.puppets.measured import PATTERN_WEIGHT
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import ACTIONS, Scene, sample_scenes

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector

__all__ = ["BASELINES", "RealSettings", "RealTask", "measure_real", "picture_path", "real_tasks"]

BASELINES = ("doing nothing", "prompt only", "ground truth")
"""Rows that are always there."""

_NEEDS_PROMPT = ("negative-prompt", "null-text", "edit-friendly", "virtual")
"""Inversions that mean little without the source's prompt; the others get none, as in the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSettings:
    """How pictures are edited.

    Attributes:
        inversions: names of `masactrl.inversion.INVERSIONS`, a row each.
        count: pictures, at least 1.
        steps: of inversion and edit; None is the model's.
        guidance: of the targets; None is the model's.
        start_step, start_layer: S and L; None is the model's.
        seed: of scenes and noise, 0 and more.
        pictures: of how many scenes pictures are kept, 0 and more.
    """

    inversions: tuple[str, ...] = tuple(INVERSIONS)
    count: int = 200
    steps: int | None = None
    guidance: float | None = None
    start_step: int | None = None
    start_layer: int | None = None
    seed: int = 0
    pictures: int = 8

    def __post_init__(self) -> None:
        unknown = [name for name in self.inversions if name not in INVERSIONS]
        if unknown:
            raise ConfigError(
                f"The inversion {unknown[0]!r} is not known; accepted are {', '.join(INVERSIONS)}."
            )
        if len(set(self.inversions)) < len(self.inversions):
            raise ConfigError("An inversion is there twice; name each once.")
        for name, least in (("count", 1), ("seed", 0), ("pictures", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is {least} and more."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTask:
    """One scene and what it is edited to; both in the words of the model, too."""

    key: str
    source: Scene
    target: Scene

    @property
    def source_prompt(self) -> str:
        """What the picture shows."""
        return _prompt(self.source)

    @property
    def target_prompt(self) -> str:
        """What the edit is to show."""
        return _prompt(self.target)


def real_tasks(count: int, seed: int) -> tuple[RealTask, ...]:
    """Scenes from seeds that were never trained on, none a close-up; another action for each.

    Everything is drawn evenly. The first n of more tasks are the n tasks.
    """
    scenes = sample_scenes(count, seed=HELD_OUT_SEED + seed, close_up=0.0)
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for number, scene in enumerate(scenes):
        others = [action for action in ACTIONS if action != scene.pose.action]
        action = others[int(torch.randint(len(others), (), generator=generator))]
        tasks.append(RealTask(key=f"{number:04d}", source=scene, target=scene.acting(action)))
    return tuple(tasks)


def measure_real(
    model: LoadedModel,
    inspector: Inspector,
    settings: RealSettings,
    folder: Path,
    *,
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
        on_progress: called after every picture with (pictures done, all).

    Raises:
        ConfigError: the folder holds a run with other settings, or S, L or another setting does not
            fit the model.
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
        "steps": steps,
        "guidance": resolved.guidance_scale,
        "start_step": resolved.start_step,
        "start_layer": resolved.start_layer,
        "seed": settings.seed,
    }
    ledger = Ledger(folder, facts, ("task", "row"))
    bench = _Bench(model, inspector, settings, steps, resolved.guidance_scale, request)
    for done, task in enumerate(real_tasks(settings.count, settings.seed), start=1):
        wanted = [*BASELINES, *settings.inversions]
        missing = [row for row in wanted if not ledger.done(task.key, row)]
        if missing:
            for row, picture in bench.rows(task, missing):
                ledger.add(row)
                if picture is not None and done <= settings.pictures:
                    _keep(folder, task.key, str(row["row"]), picture)
        if on_progress is not None:
            on_progress(done, settings.count)
    return ledger


def picture_path(folder: Path, task: str, row: str) -> Path:
    """Where the picture of a row is kept, where it is."""
    return folder / "pictures" / f"{task}-{row.replace(' ', '-')}.png"


@dataclass(frozen=True, slots=True)
class _Bench:
    model: LoadedModel
    inspector: Inspector
    settings: RealSettings
    steps: int
    guidance: float
    request: EditRequest

    def rows(
        self, task: RealTask, names: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], Image.Image | None]]:
        """The rows of one scene, each with its picture where there is one."""
        size = self.model.preset.height, self.model.preset.width
        drawn = render([task.source, task.target], size)
        source = tensor_to_image(drawn.image[0], signed=False)
        animals = drawn.mask.amax(0, keepdim=True)
        was = Shot.of(_tensor(source), self.inspector)
        for name in names:
            row: dict[str, Any] = {"task": task.key, "row": name}
            try:
                picture, costs = self._edited(task, name, source, drawn.image[1])
            except MasaCtrlError as error:
                if isinstance(error, ConfigError):
                    raise  # the settings are wrong, for every picture
                yield {**row, "error": str(error)}, None
                continue
            figures = _judge(task, was, Shot.of(_tensor(picture), self.inspector), animals)
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

    def _inverted(self, task: RealTask, name: str, source: Image.Image) -> Any:
        asked = InversionRequest(
            method=name,
            prompt=task.source_prompt if name in _NEEDS_PROMPT else "",
            steps=self.steps,
            seed=self.settings.seed if name in ("edit-friendly", "virtual") else None,
        )
        request = EditRequest(
            target_prompts=(task.target_prompt,),
            guidance_scale=self.request.guidance_scale,
            start_step=self.request.start_step,
            start_layer=self.request.start_layer,
            compare=False,
        )
        with warnings.catch_warnings():
            # About words that a model does not know: the same for every picture.
            warnings.simplefilter("ignore", ControlWarning)
            return invert(self.model, source, asked).edit(request)

    def _from_noise(self, task: RealTask) -> Image.Image:
        # Its own noise for each scene, whatever was run before.
        seed = 1_000_003 * (1 + self.settings.seed) + int(task.key)
        studio = Studio.of(
            self.model.pipeline, steps=self.steps, guidance=self.guidance, size=None, seed=seed
        )
        (picture,) = studio.pictures([task.target_prompt], studio.noise(1))
        return tensor_to_image(picture, signed=False)


def _judge(task: RealTask, was: Shot, seen: Shot, animals: Tensor) -> Mapping[str, float]:
    """What an edit (one picture) did; `animals` (1, 1, h, w) covers source and right answer."""
    before, after = was.reading, seen.reading
    coat = float(lab_distance(after.coat, before.coat))
    accent = float(lab_distance(after.accent, before.accent))
    pattern = float(after.pattern[0] != before.pattern[0])
    return {
        "action": float(after.action[0] == task.target.pose.action),
        "species": float(after.species[0] == task.source.identity.species),
        "identity": (coat + accent) / 2 + PATTERN_WEIGHT * pattern,
        "pattern": pattern,
        "background": float(background_psnr(was.pictures, seen.pictures, animals)),
    }


def _prompt(scene: Scene) -> str:
    return full_prompt(
        scene.identity.species, scene.pose.action, scene.backdrop.place, scene.pose.facing
    )


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
