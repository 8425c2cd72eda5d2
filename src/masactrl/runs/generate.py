"""Source and targets in one run: joins model, request and control; no mathematics of its own.

All pictures of a run are rows of one batch and start from the same noise:

    source | targets with control, reading the source | the same targets reading themselves
"""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError
from masactrl.pictures.images import tensor_to_images
from masactrl.runs.prompts import prompt_warnings
from masactrl.runs.recipe import stated_model
from masactrl.runs.request import GenerateRequest, ResolvedRequest
from masactrl.runs.result import GenerateResult, TargetResult
from masactrl.runs.running import running
from masactrl.settings.prompt_weights import without_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from PIL import Image
    from torch import Tensor

    from masactrl.attention import Rows
    from masactrl.methods import Method
    from masactrl.models import LoadedModel

__all__ = [
    "GenerateRequest",
    "GenerateResult",
    "ResolvedRequest",
    "StepRecord",
    "TargetResult",
    "check_numbers",
    "generate",
    "leading",
    "method_of",
    "notes_of",
    "painter",
    "result_of",
    "rows_of",
    "start_noise",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One finished denoising step.

    Attributes:
        step: its index, 0 (the noisiest) to steps - 1.
        steps: how many there are.
        timestep: the model's noise level at that step, 999 (noise) to 0.
    """

    step: int
    steps: int
    timestep: float


def generate(
    model: LoadedModel,
    request: GenerateRequest,
    *,
    method: Method | None = None,
    noise: Tensor | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> GenerateResult:
    """Make the source, and every target with and without control.

    The same request gives the same pictures again, on the same machine to the bit: the start noise
    is drawn on the CPU whatever the device. The model's pipeline is left as it was.

    Args:
        model: what `load_pipeline` returns.
        request: what to make; what it leaves open comes from the model's preset.
        method: who controls the targets, instead of the method that the request names.
        noise: start noise (1, c, h / 8, w / 8) of all pictures, instead of that of the seed.
        on_step: called after each denoising step; an exception raised there ends the run.

    Raises:
        ScheduleError: S or L is beyond the steps of the run or the layers of the model.
        UnsupportedPipeline: the model cannot be controlled.
        ConfigError: the noise is of another shape, or holds NaN.
        MasaCtrlError: the model made NaN or infinite values, as some do in float16.

    Warns:
        ControlWarning: the model will not see a prompt as it was written.
    """
    with running(model, request):
        return _generated(model, request, method, noise, on_step)


def _generated(
    model: LoadedModel,
    request: GenerateRequest,
    method: Method | None,
    noise: Tensor | None,
    on_step: Callable[[StepRecord], None] | None,
) -> GenerateResult:
    from masactrl.models.drawing import exact_ddim

    settings, own = request.resolve(model.preset), None
    control = method_of(settings) if method is None else method
    if method is not None:
        settings, own = _described(model, settings, method)
    notes = notes_of(model, settings)
    for note in notes:
        warnings.warn(note, ControlWarning, stacklevel=3)

    started = time.perf_counter()
    if settings.layouts and control.start is not None:
        raise ConfigError(
            f"Targets of {control.name} are a run of their own, which takes no layout yet; leave "
            "the layout out, or take another method."
        )
    numbers = range(1, len(settings.target_prompts) + 1)
    led = leading(model, settings)((0, *numbers, *numbers))
    # Before anything is attached, also to the scheduler.
    with exact_ddim(model.pipeline), led:
        z_T = start_noise(model, settings) if noise is None else _checked(model, settings, noise)
        pictures, latents = _pictures(model, settings, control, z_T, _reporter(on_step))
    seconds = time.perf_counter() - started
    named = zip(_order(len(settings.target_prompts)), latents.float().cpu(), strict=True)
    return result_of(
        model,
        settings,
        pictures,
        seconds=seconds,
        notes=notes,
        control=own,
        noise_given=noise is not None,
        latents=dict(named),
    )


def notes_of(model: LoadedModel, settings: ResolvedRequest) -> tuple[str, ...]:
    """Return sentences about what is probably not meant."""
    from masactrl.models.drawing import first_level_warning

    said = [settings.source_prompt, *settings.target_prompts, settings.negative_prompt]
    return (
        *first_level_warning(model.pipeline.scheduler, settings.steps),
        *prompt_warnings(model, said),
    )


def result_of(
    model: LoadedModel,
    settings: ResolvedRequest,
    pictures: Tensor,
    *,
    seconds: float,
    notes: tuple[str, ...],
    control: str | None = None,
    noise_given: bool = False,
    latents: Mapping[str, Tensor] = MappingProxyType({}),
) -> GenerateResult:
    """Return the result of a run.

    Args:
        model: what made it.
        settings: what was run.
        pictures: source, targets with and targets without control: n 3 h w in [0, 1].
        seconds: that it took.
        notes: what was warned of.
        control: see `GenerateResult`.
        noise_given: see there.
        latents: see there.

    Raises:
        MasaCtrlError: the pictures hold NaN.
    """
    check_numbers(model, pictures)
    targets = settings.target_prompts
    source, *others = tensor_to_images(pictures, signed=False)
    controlled, uncontrolled = others[: len(targets)], others[len(targets) :]
    return GenerateResult(
        source=source,
        targets=tuple(
            TargetResult(prompt=prompt, uncontrolled=plain, controlled=edited)
            for prompt, plain, edited in zip(targets, uncontrolled, controlled, strict=True)
        ),
        request=settings,
        seconds=seconds,
        model=model.name,
        # Not pipeline.device, which of an offloaded model is where it waits.
        device=model.pipeline._execution_device.type,
        dtype=model.dtype,
        warnings=notes,
        stated=stated_model(model),
        control=control,
        noise_given=noise_given,
        latents=latents,
    )


def _order(targets: int) -> tuple[str, ...]:
    """The names of a run's pictures in the order of its rows."""
    numbers = range(1, targets + 1)
    kinds = (
        f"target{number}-{kind}" for kind in ("controlled", "uncontrolled") for number in numbers
    )
    return ("source", *kinds)


def _checked(model: LoadedModel, settings: ResolvedRequest, noise: Tensor) -> Tensor:
    """Noise of somebody's own, where the model computes."""
    own = start_noise(model, settings)
    if noise.shape != own.shape or not bool(noise.isfinite().all()):
        raise ConfigError(
            f"The noise is of the shape {tuple(noise.shape)}; pictures of {settings.width}x"
            f"{settings.height} need {tuple(own.shape)}, all of it numbers."
        )
    return noise.to(own)


def leading(
    model: LoadedModel, settings: ResolvedRequest
) -> Callable[[Sequence[int]], AbstractContextManager[None]]:
    """Return what lets the layouts of a request lead rows of the batch inside a `with` block.

    It is told the image of every row, 0 the source, k target k; networks are loaded once. For
    studies that run the pipeline several times; without layouts nothing is led.
    """
    if not settings.layouts:
        return lambda _: nullcontext()
    from masactrl.layouts.attach import attach_layouts
    from masactrl.runs.layout import guides_of

    count = len(settings.target_prompts)
    size = (settings.height, settings.width)
    guides = guides_of(model, settings.layouts, size=size, images=range(count + 1), targets=count)

    def led(images: Sequence[int]) -> AbstractContextManager[None]:
        drawn = [tuple(guide.pictures[image] for image in images) for guide in guides]
        chosen = [
            replace(guide, pictures=pictures)
            for guide, pictures in zip(guides, drawn, strict=True)
            if any(picture is not None for picture in pictures)
        ]
        return attach_layouts(model.pipeline, chosen, images=len(images))

    return led


def _described(
    model: LoadedModel, settings: ResolvedRequest, control: Method
) -> tuple[ResolvedRequest, str | None]:
    """Return the request that names the control, and the control in words where none can."""
    from masactrl.attention import Positions, find_layers
    from masactrl.methods import MasaCtrl
    from masactrl.methods.options import from_start, options_of

    settings = replace(settings, method=control.name, method_options=())
    if isinstance(control, MasaCtrl):
        layers = find_layers(model.denoiser)
        positions = Positions.of(control.positions)
        settings = replace(
            settings,
            layers="",
            form=control.form,
            strength=control.strength,
            positions=positions.policy,
        )
        told = positions == Positions.of(positions.policy)
        if told and control.masks is None and control.schedule.max_timestep is None:
            window = control.schedule.resolve(layers, settings.steps)
            # Everything from S and L on can be said by two numbers.
            if (start := from_start(window, settings.steps, layers)) is not None:
                return replace(settings, start_step=start[0], start_layer=start[1]), None
    elif (options := options_of(control)) is not None:
        return replace(settings, method_options=tuple(sorted(options.items()))), None
    return settings, type(control).__qualname__


def method_of(settings: ResolvedRequest) -> Method:
    """Return the method that the request names, with its options.

    Raises:
        ConfigError: the method has no such option, or it is out of its range.
    """
    from masactrl.methods import MasaCtrl, method_named

    if settings.method != "masactrl":
        return method_named(settings.method, **dict(settings.method_options))
    return MasaCtrl.of(settings)


def _pictures(
    model: LoadedModel,
    settings: ResolvedRequest,
    method: Method,
    noise: Tensor,
    report: Callable[..., dict[str, Any]] | None,
) -> tuple[Tensor, Tensor]:
    """Return source, targets with and targets without control, n 3 h w in [0, 1], and latents."""
    import torch

    from masactrl.methods.starts import beginning
    from masactrl.models.drawing import draw

    pipeline, targets = model.pipeline, settings.target_prompts
    final: list[Tensor] = []  # the latents after the last step

    def tell(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        final[:] = [values["latents"]]
        return values if report is None else report(pipe, step, timestep, values)

    run = partial(
        draw,
        pipeline,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        negative_prompt=settings.negative_prompt,
        interval=(settings.guidance_begin, settings.guidance_end),
        on_step_end=tell,
    )

    def call(prompts: list[str], z_T: Tensor) -> Tensor:
        return run(prompts, z_T, seeds=[settings.seed] * len(prompts))

    prompts = [settings.source_prompt, *targets]
    if method.start is None:
        rows = rows_of(len(targets))
        prompts += targets
        # An attachment counts tokens, of which weights have none.
        with method.attach(pipeline, rows, prompts=[without_weights(prompt) for prompt in prompts]):
            return call(prompts, noise.repeat(rows.images, 1, 1, 1)), final[-1]
    plain = call(prompts, noise.repeat(len(prompts), 1, 1, 1))
    z_0 = final[-1]
    each = (len(targets), 1, 1, 1)
    with beginning(
        pipeline,
        method,
        prompts=targets,
        z_0=z_0[:1].repeat(each),
        noise=noise.repeat(each),
        steps=settings.steps,
        seed=settings.seed,
        source_prompts=(without_weights(settings.source_prompt),) * len(targets),
    ) as z_t:
        edited = call(list(targets), z_t)
    return (
        torch.cat([plain[:1], edited, plain[1:]]),
        torch.cat([z_0[:1], final[-1], z_0[1:]]),
    )


def check_numbers(model: LoadedModel, pictures: Tensor) -> None:
    """Refuse pictures that hold NaN or infinity; `MasaCtrlError`."""
    if not bool(pictures.isfinite().all()):
        raise MasaCtrlError(
            f"The model {model.name} made NaN or infinite values, as some do in float16; try "
            "float32 or bfloat16."
        )


def painter(
    model: LoadedModel,
    settings: ResolvedRequest,
    on_step: Callable[[StepRecord], None] | None = None,
) -> Callable[[Sequence[str]], tuple[Image.Image, ...]]:
    """Return what makes pictures of prompts, all from the one start noise of the request.

    For studies that run the pipeline several times, with what they have attached to it. The
    pictures raise `MasaCtrlError` where the model made NaN or infinite values.
    """
    from masactrl.models.drawing import draw

    noise = start_noise(model, settings)  # 1 c h w

    def pictures(prompts: Sequence[str]) -> tuple[Image.Image, ...]:
        with running(model, settings):
            made = draw(
                model.pipeline,
                prompts,
                noise.repeat(len(prompts), 1, 1, 1),
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                negative_prompt=settings.negative_prompt,
                interval=(settings.guidance_begin, settings.guidance_end),
                seeds=[settings.seed] * len(prompts),
                on_step_end=_reporter(on_step),
            )
        check_numbers(model, made)
        return tensor_to_images(made, signed=False)

    return pictures


def rows_of(targets: int) -> Rows:
    """Return who reads whom in the batch of a run: 1 + 2 * `targets` images.

    Image 0 is the source; images 1 to `targets` read it; the others are the same targets without
    control and read themselves.
    """
    from masactrl.attention import Rows

    own = tuple((image,) for image in range(1 + targets, 1 + 2 * targets))
    return Rows(images=1 + 2 * targets, reads=((0,), *((0,),) * targets, *own))


def start_noise(model: LoadedModel, settings: ResolvedRequest) -> Tensor:
    """Return the start noise `1 c h w` of a request; see `masactrl.models.drawing.start_noise`."""
    from masactrl.models import drawing

    return drawing.start_noise(
        model.pipeline, seed=settings.seed, height=settings.height, width=settings.width
    )


def _reporter(on_step: Callable[[StepRecord], None] | None) -> Callable[..., dict[str, Any]] | None:
    """Return the callback of diffusers that tells `on_step`; None for None."""
    if on_step is None:
        return None

    def report(
        pipeline: Any, step: int, timestep: Tensor | float, values: dict[str, Any]
    ) -> dict[str, Any]:
        steps = len(pipeline.scheduler.timesteps)
        on_step(StepRecord(step=step, steps=steps, timestep=float(timestep)))
        return values

    return report
