"""Batches of PuppetBench: sources, and what a column makes of them.

    synthesised    sources from their prompts; source and target of all tasks in one batch of rows
    rendered       sources drawn exactly; each is inverted, and edited as a photograph is

A rendered source is inverted with a null prompt, as in the paper; for methods that align words, and
for inversions that live on the prompt, with the prompt of its scene.

Tasks of the kind layout are in batches of their own: their targets are led by the skeletons of
their poses, their sources by none.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from masactrl.bench.puppet_settings import RIGHT, Column, PuppetSettings
from masactrl.bench.puppet_tasks import LAYOUT
from masactrl.bench.real_tasks import NEEDS_PROMPT
from masactrl.errors import ControlWarning, MasaCtrlError
from masactrl.layouts.attach import attach_layouts
from masactrl.methods import FixedSeed
from masactrl.methods.running import run_method
from masactrl.models.denoiser import Denoiser
from masactrl.models.drawing import draw, start_noise
from masactrl.pictures.images import image_to_tensor, tensor_to_image
from masactrl.puppets.posed import draw_skeletons
from masactrl.puppets.renderer import keypoints_of, render
from masactrl.runs.inversion_request import draws_noise
from masactrl.runs.invert import InversionRequest, invert
from masactrl.runs.layout import Layout, guides_of
from masactrl.runs.method_choice import aligns_words

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.bench.puppet_tasks import PuppetTask
    from masactrl.methods import Method
    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession

__all__ = ["Batch", "BenchContext", "Edited", "Rendered", "Synthesised"]

Item = tuple["PuppetTask", int]  # and its seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """What a column made.

    Attributes:
        pictures: (n, 3, h, w) in [0, 1], of the items that went well.
        numbers: which items of the batch they are of.
        seconds: per picture.
        failed: by item, why there is none.
    """

    pictures: Tensor
    numbers: tuple[int, ...]
    seconds: float
    failed: Mapping[int, str] = field(default_factory=dict)


class Batch(Protocol):
    """Several (task, seed) with their sources."""

    sources: Tensor
    """(n, 3, h, w) in [0, 1]."""
    masks: Tensor | None
    """(n, 1, h, w) exact foreground of the sources, where it is known."""

    def make(self, label: str, numbers: Sequence[int]) -> Edited:
        """Let a column edit the items of these numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchContext:
    """The model, set up for one run; `methods` and `columns` are by label.

    `networks` are those that read layouts, loaded, see `guides_of`.
    """

    model: LoadedModel
    settings: PuppetSettings
    guidance: float
    methods: Mapping[str, Method]
    columns: Mapping[str, Column]
    networks: MutableMapping[tuple[str, str | None], Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all pictures."""
        return self.model.preset.height, self.model.preset.width

    def noise(self, seed: int) -> Tensor:
        """(c, h, w) start noise, drawn on the CPU."""
        height, width = self.size
        return start_noise(self.model.pipeline, seed=seed, height=height, width=width)[0]

    def call(self, prompts: Sequence[str], latents: Tensor, callback: Any) -> Tensor:
        """Pictures (n, 3, h, w) in [0, 1] of the plain pipeline, on the CPU."""
        pictures = draw(
            self.model.pipeline,
            prompts,
            latents,
            steps=self.settings.steps,
            guidance_scale=self.guidance,
            on_step_end=callback,
        )
        return pictures.float().cpu()

    def prompt_only(self, items: Sequence[Item]) -> Tensor:
        """The target prompts from noise that no source has."""
        others = [self.noise(task.noise_seed + 16 + seed) for task, seed in items]
        with self.led(items):
            return self.call([task.target_prompt for task, _ in items], torch.stack(others), None)

    def skeletons(self, tasks: Sequence[PuppetTask]) -> Tensor:
        """(n, 3, h, w) in [0, 1]: the layouts of tasks."""
        return draw_skeletons(keypoints_of([task.target for task in tasks], self.size), self.size)

    def layouts(self, tasks: Sequence[PuppetTask]) -> tuple[Layout, ...]:
        """The skeletons as a request has them; none where tasks have none."""
        if tasks[0].kind != LAYOUT:
            return ()
        shown = tuple(tensor_to_image(one, signed=False) for one in self.skeletons(tasks))
        return (Layout(kind="pose", pictures=shown, model=self.settings.layout_model),)

    def led(self, items: Sequence[Item], *, sources: bool = False) -> AbstractContextManager[None]:
        """Lead targets by their layouts, where they have one; with their sources before them."""
        if not (layouts := self.layouts([task for task, _ in items])):
            return nullcontext()
        images = (*([0] * len(items) if sources else ()), *range(1, len(items) + 1))
        guides = guides_of(
            self.model,
            layouts,
            size=self.size,
            images=images,
            targets=len(items),
            networks=self.networks,
        )
        return attach_layouts(self.model.pipeline, guides, images=len(images))


class Synthesised:
    """Sources from their prompts; made at once, with the targets of the fixed seed beside them."""

    masks: Tensor | None = None

    def __init__(self, context: BenchContext, items: Sequence[Item]) -> None:
        self._context, self._items = context, items
        self._noise = torch.stack([context.noise(task.noise_seed + seed) for task, seed in items])
        started = time.perf_counter()
        made = self._run(FixedSeed(), None, led=True)
        if made.sources is None:
            raise MasaCtrlError("The sources were not made.")
        self._seconds = (time.perf_counter() - started) / (2 * len(items))
        self.sources: Tensor = made.sources
        self._plain: Tensor = made.targets
        self._z_0: Tensor = made.source_latents

    def make(self, label: str, numbers: Sequence[int]) -> Edited:
        """Edit the whole batch, whichever items are asked for: batches of one size agree."""
        started = time.perf_counter()
        try:
            pictures = self._pictures(label)
        except MasaCtrlError as error:
            failed = dict.fromkeys(numbers, str(error))
            return Edited(pictures=self.sources[:0], numbers=(), seconds=0.0, failed=failed)
        seconds = (time.perf_counter() - started) / len(self._items)
        chosen = tuple(numbers)
        return Edited(
            pictures=pictures[list(chosen)],
            numbers=chosen,
            seconds=self._seconds if label == "fixed-seed" else seconds,
        )

    def _pictures(self, label: str) -> Tensor:
        if label == "nothing":
            return self.sources
        if label == "fixed-seed":
            return self._plain
        if label == "prompt-only":
            return self._context.prompt_only(self._items)
        method, led = self._context.methods[label], self._context.columns[label].layout
        targets: Tensor = self._run(method, self._z_0, led=led).targets
        return targets

    def _run(self, method: Method, z_0: Tensor | None, *, led: bool) -> Any:
        context = self._context
        with context.led(self._items, sources=True) if led else nullcontext():
            return run_method(
                context.model.pipeline,
                method,
                source_prompts=[task.source_prompt for task, _ in self._items],
                target_prompts=[task.target_prompt for task, _ in self._items],
                noise=self._noise,
                steps=context.settings.steps,
                call=context.call,
                source_latents=z_0,
            )


class Rendered:
    """Sources drawn exactly, inverted when the first column asks for them."""

    def __init__(self, context: BenchContext, items: Sequence[Item]) -> None:
        self._context, self._items = context, items
        tasks = {task.key: task for task, _ in items}
        drawn = render([task.source for task in tasks.values()], context.size)
        found = list(tasks)
        self._pictures = {
            key: tensor_to_image(drawn.image[n], signed=False) for n, key in enumerate(found)
        }
        self.sources = torch.stack([_tensor(self._pictures[task.key]) for task, _ in items])
        self.masks: Tensor | None = drawn.mask[[found.index(task.key) for task, _ in items]]
        self._sessions: dict[tuple[str, str, int | None], EditSession] = {}

    def make(self, label: str, numbers: Sequence[int]) -> Edited:
        """Edit one picture after the other."""
        started = time.perf_counter()
        made: dict[int, Tensor] = {}
        failed: dict[int, str] = {}
        with warnings.catch_warnings():
            # About words that a model does not know: the same for every picture.
            warnings.simplefilter("ignore", ControlWarning)
            for number in numbers:
                try:
                    made[number] = self._one(label, *self._items[number])
                except MasaCtrlError as error:
                    failed[number] = str(error)
        spent = time.perf_counter() - started
        pictures = torch.stack(list(made.values())) if made else self.sources[:0]
        each = 0.0 if label == "nothing" else spent / max(1, len(made))
        return Edited(pictures=pictures, numbers=tuple(made), seconds=each, failed=failed)

    def _one(self, label: str, task: PuppetTask, seed: int) -> Tensor:
        context = self._context
        if label == "nothing":
            return _tensor(self._pictures[task.key])
        if label == "prompt-only":
            return context.prompt_only([(task, seed)])[0]
        if label == RIGHT:
            answer = render([task.target], context.size).image * 2 - 1
            denoiser = Denoiser(context.model.pipeline)
            back = denoiser.decode_image(denoiser.encode_image(answer))[0].cpu()
            picture: Tensor = (back / 2 + 0.5).clamp(0, 1)
            return picture
        column = context.columns.get(label, Column(method="fixed-seed"))
        request = column.request(
            task.target_prompt,
            guidance=context.guidance,
            seed=task.noise_seed + seed,
            layouts=context.layouts([task]),
        )
        method = context.methods.get(label)
        session = self._session(task, seed, words=method is not None and aligns_words(method))
        return _tensor(session.edit(request).targets[0].controlled)

    def _session(self, task: PuppetTask, seed: int, *, words: bool) -> EditSession:
        name = self._context.settings.inversion
        drawn = task.noise_seed + seed if draws_noise(name) else None
        prompt = task.source_prompt if words or name in NEEDS_PROMPT else ""
        key = (task.key, prompt, drawn)
        if key not in self._sessions:
            asked = InversionRequest(
                method=name, source_prompt=prompt, steps=self._context.settings.steps, seed=drawn
            )
            picture = self._pictures[task.key]
            self._sessions[key] = invert(self._context.model, picture, asked)
        return self._sessions[key]


def _tensor(picture: Image.Image) -> Tensor:
    """(3, h, w) in [0, 1]."""
    return image_to_tensor(picture, signed=False)
