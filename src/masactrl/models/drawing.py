"""The one place that runs a pipeline of diffusers from noise to pictures, and draws the noise.

    noise = start_noise(pipeline, seed=7, height=512, width=512)
    pictures = draw(pipeline, prompts, noise.repeat(len(prompts), 1, 1, 1), steps=50, ...)

What the caller does not say is what the stock pipeline does by itself.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from masactrl.attention.networks import network_of
from masactrl.diffusion.noise import timestep_grid
from masactrl.errors import UnsupportedPipeline
from masactrl.models.guidance_interval import check_guided_interval, guidance_within
from masactrl.models.joint import (
    check_guidance,
    check_size,
    latent_channels,
    packed,
    text_length,
    unpacked,
)
from masactrl.models.weighted_text import embeddings, weights_act
from masactrl.settings.prompt_weights import is_weighted, without_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from masactrl.diffusion.noise import Spacing
    from masactrl.models.loading import Pipeline

__all__ = ["draw", "exact_ddim", "first_level_warning", "start_noise"]

_MOST_LOST: Final = 0.1  # of the noise levels, above which a run begins too late
_LEAST: Final = (
    0.4  # part of the noise levels below which no run may begin, one of one step neither
)


def start_noise(pipeline: Any, *, seed: int, height: int, width: int) -> Tensor:
    """Return the start noise (1, c, h / factor, w / factor) of one picture.

    It is on the pipeline's device, of the network's precision.

    Drawn in float32 on the CPU, so that a seed means the same noise on every device, whatever
    torch's default type and device are.

    Args:
        pipeline: whose channels and latent sizes count.
        seed: of the noise.
        height, width: of the picture in pixels.

    Raises:
        ConfigError: the network has no whole patches for such a picture.
    """
    check_size(pipeline, height, width)
    factor = pipeline.vae_scale_factor
    shape = (1, latent_channels(pipeline), height // factor, width // factor)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    denoiser: Any = network_of(pipeline)[1]
    return noise.to(pipeline.device, denoiser.dtype)


def draw(
    pipeline: Pipeline,
    prompts: Sequence[str],
    latents: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
    interval: tuple[float, float] = (0.0, 1.0),
    seeds: Sequence[int] | None = None,
    on_step_end: Callable[..., dict[str, Any]] | None = None,
) -> Tensor:
    """Return pictures (n, 3, h, w) in [0, 1] that start from ``latents`` (n, c, h/8, w/8).

    Args:
        pipeline: Stable Diffusion, SDXL, SD3 or FLUX; a control that is attached to it acts.
        prompts: n of them; weights act, see `masactrl.models.weighted_text`.
        latents: noise, one a prompt; they say how large the pictures are.
        steps: denoising steps.
        guidance_scale: weight of classifier-free guidance; 1 switches it off.
        negative_prompt: what guidance leads away from in all pictures. Empty is the pipeline's own
            nothing: zeros for models that were trained so (SDXL's base), else no words.
        interval: part of the run in which guidance acts, see `masactrl.models.guidance_interval`.
        seeds: one a prompt, of what a scheduler draws at its steps (LCM, ancestral ones); None
            leaves that to torch's own generator. Equal seeds draw equal noise.
        on_step_end: callback of diffusers, called after each step; latents are (n, c, h, w) there.

    Raises:
        ConfigError: FLUX was given a negative prompt, or guidance that it does not know.
    """
    run: Any = pipeline
    check_guidance(pipeline, guidance_scale, negative_prompt)
    check_guided_interval(pipeline, interval, guidance_scale)
    with exact_ddim(pipeline), guidance_within(pipeline, *interval):
        pictures: Tensor = run(
            **_words(pipeline, prompts, negative_prompt, guided=guidance_scale > 1),
            height=latents.shape[-2] * run.vae_scale_factor,
            width=latents.shape[-1] * run.vae_scale_factor,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            latents=packed(pipeline, latents),
            generator=_generators(pipeline, latents, seeds),
            output_type="pt",
            callback_on_step_end=_unpacking(pipeline, on_step_end, latents),
        ).images
    return pictures


def _generators(
    pipeline: Any, latents: Tensor, seeds: Sequence[int] | None
) -> list[torch.Generator] | None:
    """What draws the noise of steps, behind the start noise of the same seed; DDIM draws none."""
    if seeds is None or isinstance(pipeline.scheduler, DDIMScheduler):
        return None
    made = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    for one in made:
        torch.randn(latents[:1].shape, generator=one, device="cpu", dtype=torch.float32)
    return made


def _unpacking(
    pipeline: Any, on_step_end: Callable[..., dict[str, Any]] | None, latents: Tensor
) -> Callable[..., dict[str, Any]] | None:
    """The callback, which sees latents as they are elsewhere."""
    if on_step_end is None:
        return None
    size = (latents.shape[-2], latents.shape[-1])

    def told(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        shown = values | {"latents": unpacked(pipeline, values["latents"], size)}
        back = dict(on_step_end(pipe, step, timestep, shown))
        if "latents" in back:
            back["latents"] = packed(pipeline, back["latents"])
        return back

    return told


def _words(
    pipeline: Pipeline, prompts: Sequence[str], negative_prompt: str, *, guided: bool
) -> dict[str, Any]:
    """What the call is told to draw: the prompts, or embeddings where any has a weight."""
    if weights_act(pipeline) and any(map(is_weighted, (*prompts, negative_prompt))):
        return embeddings(pipeline, prompts, negative_prompt, guided=guided)
    negative = without_weights(negative_prompt)
    longest = (
        {"max_sequence_length": text_length(pipeline)} if network_of(pipeline)[0].joint else {}
    )
    return longest | {
        "prompt": [without_weights(prompt) for prompt in prompts],
        "negative_prompt": [negative] * len(prompts) if negative else None,
    }


class _ExactDDIM(DDIMScheduler):  # type: ignore[misc]  # untyped
    """DDIM whose every step leads to the level of the run's next timestep.

    diffusers steps to the level ``t - T // N`` instead. With spacing "leading" that is the next
    timestep; with "trailing" and "linspace" it is another one where T / N is no whole number, and a
    run leaves noise behind or smooths too much.
    """

    timesteps: Tensor
    alphas_cumprod: Tensor
    final_alpha_cumprod: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As diffusers' own, without the timestep -1 that "trailing" adds to 61 steps."""
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps[:num_inference_steps]

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, *args: Any, **kwargs: Any):  # type: ignore[no-untyped-def]
        """One step of diffusers' own, with the right level where it looks for the next one."""
        t = int(timestep)
        after = int((self.timesteps == t).nonzero()[0]) + 1
        last = after == len(self.timesteps)
        level = (
            self.final_alpha_cumprod if last else self.alphas_cumprod[int(self.timesteps[after])]
        )
        looked_up = t - self.config.num_train_timesteps // self.num_inference_steps
        levels, final = self.alphas_cumprod, self.final_alpha_cumprod
        if looked_up < 0:
            self.final_alpha_cumprod = level
        else:
            self.alphas_cumprod = levels.clone()
            self.alphas_cumprod[looked_up] = level
        try:
            return super().step(model_output, timestep, sample, *args, **kwargs)
        finally:
            self.alphas_cumprod, self.final_alpha_cumprod = levels, final


@contextmanager
def exact_ddim(pipeline: Any) -> Iterator[None]:
    """Let the pipeline's DDIM step to the levels of its own timesteps inside the `with` block.

    Other schedulers, and subclasses that somebody wrote, stay what they are. The pipeline's own
    scheduler is set aside and put back unchanged, also after an exception.
    """
    own = getattr(pipeline, "scheduler", None)
    # Wrapped by whoever came before, it knows the scheduler that it was.
    if type(own) is not DDIMScheduler or {"step", "set_timesteps"} & vars(own).keys():
        yield
        return
    exact = copy.copy(own)
    exact.__class__ = _ExactDDIM
    pipeline.scheduler = exact
    try:
        yield
    finally:
        pipeline.scheduler = own


def first_level_warning(
    scheduler: Any, steps: int, *, spacing: Spacing | None = None
) -> tuple[str, ...]:
    """Return a sentence where a DDIM run of so many steps begins far from pure noise; else nothing.

    "leading" timesteps are a whole number apart, so 501 steps of 1000 begin at level 501, with pure
    noise all the same: pictures come out washed out and cut.

    Args:
        scheduler: of the pipeline; others than DDIM choose their levels in other ways and pass.
        steps: of the run.
        spacing: of its timesteps; None is the scheduler's own.

    Raises:
        ConfigError: the scheduler has no room for so many steps.
        UnsupportedPipeline: the noise is to be predicted where there is nothing but noise.
    """
    if not isinstance(scheduler, DDIMScheduler):
        return ()
    config = scheduler.config
    trained, spacing = config.num_train_timesteps, spacing or config.timestep_spacing
    grid = timestep_grid(steps, trained=trained, spacing=spacing, offset=config.steps_offset)
    if config.prediction_type == "epsilon" and float(scheduler.alphas_cumprod[grid[0]]) <= 0:
        raise UnsupportedPipeline(
            f"The run begins at timestep {grid[0]}, which holds nothing of the picture (zero "
            "terminal SNR), and the network predicts the noise, from which no picture follows "
            'there; use prediction_type="v_prediction" if the model was trained so, or spacing '
            '"leading".'
        )
    wanted = max(trained - trained / steps - _MOST_LOST * trained, _LEAST * trained)
    if grid[0] >= wanted:
        return ()
    fit = (n for n in (*range(steps, 1, -1), 20) if n * (trained // n) > 0.95 * trained)
    best = next(fit, 20)
    return (
        f"{steps} steps with {spacing} timesteps begin at noise level {grid[0]} of {trained}, "
        f"though the start is pure noise: pictures come out washed out. Take {best} steps, or a "
        "scheduler with trailing timesteps.",
    )
