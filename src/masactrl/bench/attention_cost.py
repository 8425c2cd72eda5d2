"""What the control costs: seconds per step and peak memory, beside two references.

On a random-weight U-Net of Stable Diffusion 1.5's real size: one picture generated plainly, source
and target under control, and the same edit written out with an explicit softmax: once per layer,
as the equations have it, and as the paper's code has it, which computes every controlled layer's
own attention first and throws it away. Every form runs in a process of its own, so that one's
memory is not another's.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from masactrl.attention.attachment import attach
from masactrl.attention.call import LayerCall
from masactrl.attention.networks import find_layers
from masactrl.attention.rows import Rows
from masactrl.attention.schedule import Schedule
from masactrl.bench.explicit_attention import Explicit
from masactrl.errors import ConfigError
from masactrl.settings.checks import settle

__all__ = [
    "FORMS",
    "Cost",
    "CostForm",
    "CostSettings",
    "attention_cost",
    "cost_page",
    "cost_table",
    "measure",
    "peak_memory",
    "random_unet",
]

CostForm = Literal["plain", "control", "explicit", "official"]
FORMS: tuple[CostForm, ...] = ("plain", "control", "explicit", "official")
_TITLES = {
    "plain": "one picture, plain",
    "control": "source + target, this package",
    "explicit": "source + target, explicit softmax",
    "official": "source + target, explicit as in the paper's code",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSettings:
    """What is measured: a square of `size` pixels, `steps` timed steps after one to warm up.

    `guidance` doubles the batch as in ordinary use; `threads` (0: torch's own choice) is for the
    CPU; `tiny` takes a U-Net of a few channels, to try the command out. Raises `ConfigError` for a
    size that is no multiple of 64 or less than one step.
    """

    size: int = 512
    steps: int = 2
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    guidance: bool = True
    threads: int = 0
    tiny: bool = False

    def __post_init__(self) -> None:
        settle(self)
        if self.size < 64 or self.size % 64:
            raise ConfigError(f"size={self.size} was given; accepted are multiples of 64 pixels.")
        if self.steps < 1 or self.threads < 0:
            raise ConfigError(
                f"steps={self.steps} and threads={self.threads} were given; accepted are at least "
                "1 step and 0 or more threads."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One form's median seconds per step and peak memory in bytes.

    The memory is the whole process's on the CPU (weights and libraries included), and that of
    torch's allocator on an accelerator.
    """

    form: CostForm
    seconds: float
    peak: int


def attention_cost(
    settings: CostSettings,
    forms: Sequence[CostForm] = FORMS,
    *,
    on_start: Callable[[CostForm], None] | None = None,
) -> tuple[Cost, ...]:
    """Measure the forms one after the other, each in a fresh process; `on_start` is told which."""
    costs = []
    for form in forms:
        if on_start is not None:
            on_start(form)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
            costs.append(pool.submit(measure, form, settings).result())
    return tuple(costs)


def measure(form: CostForm, settings: CostSettings) -> Cost:
    """Measure one form in this process; its peak memory counts whatever ran here before."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    pipeline = _pipeline(settings)
    images = 1 if form == "plain" else 2
    control: AbstractContextManager[object] = nullcontext()
    if form == "control":
        control = attach(
            pipeline,
            _read_source,
            rows=Rows.one_source(targets=1),
            schedule=Schedule(start_layer=10),
        )
    elif form in ("explicit", "official"):
        for layer in find_layers(pipeline.unet):
            edit = layer.index >= 10
            layer.module.set_processor(Explicit(edit=edit, twice=edit and form == "official"))
            if layer.cross is not None:
                layer.cross.set_processor(Explicit(edit=False))
    with control:
        seconds = _timed_run(pipeline, images, settings)
    return Cost(form=form, seconds=statistics.median(seconds), peak=peak_memory(settings.device))


def cost_table(costs: Sequence[Cost]) -> str:
    """The costs as a Markdown table, with their ratios to the first."""
    lines = ["| form | s/step | ratio | peak GiB | ratio |", "|---|---|---|---|---|"]
    first = costs[0]
    lines += [
        f"| {_TITLES[cost.form]} | {cost.seconds:.3f} | {cost.seconds / first.seconds:.2f} "
        f"| {cost.peak / 2**30:.2f} | {cost.peak / first.peak:.2f} |"
        for cost in costs
    ]
    return "\n".join(lines)


def cost_page(settings: CostSettings, costs: Sequence[Cost]) -> str:
    """The table as a Markdown section: what was measured where, and whether the aims are met.

    The aims need all forms: source and target at most 2.05 times one plain picture in time and 1.6
    times in memory, and at least twice as fast as the explicit softmax.
    """
    by_form = {cost.form: cost for cost in costs}
    plain, control, explicit, official = (by_form[form] for form in FORMS)
    time_ratio, peak_ratio = control.seconds / plain.seconds, control.peak / plain.peak
    speed, speed_official = (one.seconds / control.seconds for one in (explicit, official))
    network = "a tiny U-Net" if settings.tiny else "Stable Diffusion 1.5's U-Net"
    where = settings.device
    if where == "cpu":
        where = f"cpu, {settings.threads or torch.get_num_threads()} threads"
    aims = [
        (f"source + target over plain, time: {time_ratio:.2f} (aim 2.05)", time_ratio <= 2.05),
        (f"source + target over plain, peak memory: {peak_ratio:.2f} (aim 1.6)", peak_ratio <= 1.6),
        (f"explicit softmax over ours, time: {speed:.2f} (aim at least 2)", speed >= 2.0),
        (
            f"as in the paper's code over ours, time: {speed_official:.2f} (aim at least 2)",
            speed_official >= 2.0,
        ),
    ]
    return "\n".join(
        (
            f"{network} with random weights, {settings.size}x{settings.size}, "
            f"guidance {'on' if settings.guidance else 'off'}, "
            f"{str(settings.dtype).removeprefix('torch.')}, {where}; torch {torch.__version__}, "
            f"diffusers {diffusers.__version__}; median of {settings.steps} steps.",
            "",
            cost_table(costs),
            "",
            *(f"- {sentence}: {'met' if met else 'not met'}" for sentence, met in aims),
            "",
        )
    )


def _read_source(call: LayerCall) -> Tensor:
    """Mutual self-attention in the paper's form (see methods.masactrl)."""
    read = call.bank if call.rows.single is None else call.bank[call.rows.single]
    return call.layer(call.hidden, read)


def random_unet(
    *, tiny: bool = False, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """Return Stable Diffusion 1.5's U-Net with random weights; `tiny` with a few channels only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(8, 16, 16, 16) if tiny else (320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=2 if tiny else 8,
            norm_num_groups=4 if tiny else 32,
        )
    unet.to(device)
    if dtype != torch.float32:  # diffusers warns of every cast
        unet.to(dtype)
    return unet.eval()


def _pipeline(settings: CostSettings) -> StableDiffusionPipeline:
    """The U-Net in a pipeline without text encoder and decoder."""
    unet = random_unet(tiny=settings.tiny, device=settings.device, dtype=settings.dtype)
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _timed_run(
    pipeline: StableDiffusionPipeline, images: int, settings: CostSettings
) -> list[float]:
    """Seconds of every step but the first."""
    side = settings.size // 8
    place: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
    marks: list[float] = []

    def mark(_pipeline: object, _step: int, _t: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        if settings.device.startswith("cuda"):
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        return kwargs

    with torch.inference_mode():
        pipeline(
            prompt_embeds=torch.randn(images, 77, 768, **place),
            negative_prompt_embeds=torch.randn(images, 77, 768, **place),
            latents=torch.randn(1, 4, side, side, **place).repeat(images, 1, 1, 1),
            height=settings.size,
            width=settings.size,
            guidance_scale=7.5 if settings.guidance else 1.0,
            num_inference_steps=settings.steps + 1,
            output_type="latent",
            callback_on_step_end=mark,
        )
    return [end - begin for begin, end in pairwise(marks)]


def peak_memory(device: str) -> int:
    """Most bytes that this process has held: torch's allocator on a GPU, all of it on a CPU.

    Raises:
        ConfigError: the system does not count them.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        # The process's own peak: getrusage would count what the parent held when it forked.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError as missing:  # Windows has no such counter
        raise ConfigError(
            "The peak memory of a process cannot be read on this system; measure on a GPU or on "
            "Linux or macOS."
        ) from missing
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
