"""From noise to pictures: exact DDIM at every spacing, and what the stock pipeline does."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from masactrl import ControlWarning, GenerateRequest, InversionRequest, generate, invert
from masactrl.errors import ConfigError, UnsupportedPipeline
from masactrl.models import LoadedModel, ModelPreset
from masactrl.models.denoiser import Denoiser
from masactrl.models.drawing import draw, exact_ddim, first_level_warning, start_noise
from masactrl.runs.invert import EditRequest
from masactrl.runs.request import ResolvedRequest

SIZE = 32


def with_scheduler(pipeline: Any, **options: Any) -> Any:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **options)
    return pipeline


def literal_ddim(pipeline: Any, prompt: str, noise: Tensor, steps: int) -> Tensor:
    """DDIM in float64 without guidance, every step to the level of the next timestep."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    levels = [float(scheduler.alphas_cumprod[t]) for t in times]
    levels.append(float(scheduler.final_alpha_cumprod))
    words, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
    kind = scheduler.config.prediction_type
    z = noise.double()
    for t, a, b in zip(times, levels, levels[1:], strict=False):
        with torch.no_grad():
            said = pipeline.unet(z.float(), t, encoder_hidden_states=words).sample.double()
        if kind == "epsilon":
            eps = said
            z_0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
        else:
            z_0 = math.sqrt(a) * z - math.sqrt(1 - a) * said
            eps = math.sqrt(a) * said + math.sqrt(1 - a) * z
        z = math.sqrt(b) * z_0 + math.sqrt(1 - b) * eps
    return z.float()


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (1, {}),
        (7, {}),
        (7, {"set_alpha_to_one": True}),
        (7, {"steps_offset": 0}),
        (7, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ],
    ids=["one step", "plain", "alpha to one", "no offset", "zero snr"],
)
def test_every_spacing_is_ddim_of_its_own_levels(
    spacing: str, steps: int, options: dict[str, Any]
) -> None:
    pipeline = with_scheduler(tiny_models.sd(), timestep_spacing=spacing, **options)
    noise = start_noise(pipeline, seed=3, height=SIZE, width=SIZE)
    kept: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept[:] = [values["latents"]]
        return values

    draw(pipeline, ["a cat"], noise, steps=steps, guidance_scale=1.0, on_step_end=keep)
    wanted = literal_ddim(pipeline, "a cat", noise, steps)
    assert (kept[0] - wanted).abs().max() < 2e-3 * wanted.abs().max()


@pytest.mark.parametrize("steps", [61, 103, 201, 998])
def test_trailing_steps_are_as_many_as_were_asked_for(steps: int) -> None:
    """diffusers' own list has one more there, -1, whose level is that of pure noise."""
    pipeline = with_scheduler(tiny_models.sd(), timestep_spacing="trailing")
    pipeline.scheduler.set_timesteps(steps)
    assert pipeline.scheduler.timesteps[-1] == -1
    schedule = Denoiser(pipeline).schedule(steps)
    with exact_ddim(pipeline):
        pipeline.scheduler.set_timesteps(steps)
        assert tuple(pipeline.scheduler.timesteps.tolist()) == schedule.timesteps
    assert (len(schedule.timesteps), schedule.timesteps[0]) == (steps, 999)
    assert schedule.timesteps[-1] >= 0


def test_noise_cannot_be_predicted_from_noise_alone() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(UnsupportedPipeline, match="zero terminal"):
        first_level_warning(scheduler, 4)


def test_where_diffusers_is_right_not_a_bit_changes() -> None:
    pipeline = tiny_models.sd()  # leading
    noise = start_noise(pipeline, seed=3, height=SIZE, width=SIZE)
    stock = pipeline(
        ["a cat"], latents=noise, num_inference_steps=3, guidance_scale=3.0, output_type="pt"
    ).images
    assert torch.equal(draw(pipeline, ["a cat"], noise, steps=3, guidance_scale=3.0), stock)


def test_the_scheduler_is_put_back_and_others_are_left_alone() -> None:
    pipeline = tiny_models.sd()
    own = pipeline.scheduler

    def fail() -> None:
        with exact_ddim(pipeline):
            assert pipeline.scheduler is not own
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fail()
    assert pipeline.scheduler is own
    pipeline.scheduler = EulerDiscreteScheduler()
    with exact_ddim(pipeline):
        assert type(pipeline.scheduler) is EulerDiscreteScheduler


@pytest.mark.parametrize(
    ("spacing", "steps", "warned"),
    [
        ("leading", 1, True),
        ("leading", 2, False),
        ("leading", 50, False),
        ("leading", 260, True),
        ("leading", 500, False),
        ("leading", 501, True),
        ("leading", 999, False),
        ("linspace", 1, True),
        ("linspace", 700, False),
        ("trailing", 1, False),
        ("trailing", 700, False),
    ],
)
def test_a_run_that_begins_far_from_noise_says_so(spacing: str, steps: int, warned: bool) -> None:
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    said = first_level_warning(scheduler, steps)
    assert bool(said) == warned
    if said:
        assert "washed out" in said[0]


def test_steps_without_room_are_refused(model: LoadedModel) -> None:
    asked = GenerateRequest(source_prompt="a cat", target_prompts=("a dog",), steps=1000)
    with pytest.raises(ConfigError, match="reach timestep 1000"):
        generate(model, asked)


@pytest.mark.parametrize("steps", [501, 700])
def test_generating_and_inverting_warn_alike(model: LoadedModel, steps: int) -> None:
    class EnoughError(Exception):
        pass

    def stop(_: object) -> None:
        raise EnoughError

    asked = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), steps=steps, start_step=1, height=SIZE,
        width=SIZE, start_layer=0,
    )  # fmt: skip
    picture = tiny_models_picture()
    for run in (
        lambda: generate(model, asked, on_step=stop),
        lambda: invert(model, picture, InversionRequest(steps=steps), on_step=stop),
    ):
        with pytest.warns(ControlWarning, match="washed out"), pytest.raises(EnoughError):
            run()


def tiny_models_picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (SIZE, SIZE), (90, 120, 60))


def test_no_edit_begins_where_nothing_of_the_picture_is() -> None:
    pipeline = with_scheduler(
        tiny_models.sd(),
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
    )
    with pytest.raises(UnsupportedPipeline, match="zero terminal SNR"):
        Denoiser(pipeline).schedule(4)


@pytest.mark.parametrize("empty", [True, False])
def test_xl_without_a_negative_prompt_is_the_stock_pipeline(empty: bool) -> None:
    pipeline = tiny_models.sdxl()
    pipeline.register_to_config(force_zeros_for_empty_prompt=empty)
    noise = start_noise(pipeline, seed=4, height=SIZE, width=SIZE)
    stock = pipeline(
        "a cat", latents=noise, num_inference_steps=2, guidance_scale=6.0, output_type="pt",
        height=SIZE, width=SIZE,
    ).images  # fmt: skip
    ours = draw(pipeline, ["a cat"], noise, steps=2, guidance_scale=6.0)
    assert torch.equal(ours, stock)
    other = draw(pipeline, ["a cat"], noise, steps=2, guidance_scale=6.0, negative_prompt="snow")
    assert not torch.equal(ours, other)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_torchs_default_type_changes_nothing(model: LoadedModel, kind: torch.dtype) -> None:
    asked = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), steps=2, start_step=1, height=SIZE,
        width=SIZE,
    )  # fmt: skip
    edit = EditRequest(target_prompts=("a dog",), start_step=1)

    def made() -> list[bytes]:
        result = generate(model, asked)
        session = invert(model, tiny_models_picture(), InversionRequest(steps=2))
        pictures = [result.source, result.targets[0].controlled]
        pictures.append(session.edit(edit).targets[0].controlled)
        return [picture.tobytes() for picture in pictures]

    usual = made()
    torch.set_default_dtype(kind)
    try:
        other = made()
        assert torch.get_default_dtype() is kind
    finally:
        torch.set_default_dtype(torch.float32)
    assert other == usual


def test_a_default_device_changes_nothing(model: LoadedModel) -> None:
    noise = start_noise(model.pipeline, seed=1, height=SIZE, width=SIZE)
    with torch.device("meta"):
        assert torch.equal(start_noise(model.pipeline, seed=1, height=SIZE, width=SIZE), noise)


def tiny_vae(channels: int = 4, blocks: int = 4) -> AutoencoderTiny:
    torch.manual_seed(0)
    widths, ones = (8,) * blocks, (1,) * blocks
    return AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=ones,
        num_decoder_blocks=ones,
    ).eval()


def test_a_vae_without_a_distribution_inverts_too(model: LoadedModel) -> None:
    model.pipeline.register_modules(vae=tiny_vae())
    session = invert(model, tiny_models_picture(), InversionRequest(steps=2))
    assert session.edit(EditRequest(target_prompts=("a dog",), start_step=1)).targets
    latents = Denoiser(model.pipeline).encode_image(torch.zeros(1, 3, SIZE, SIZE))
    plain = model.pipeline.vae.encode(torch.zeros(1, 3, SIZE, SIZE)).latents
    assert torch.equal(latents, plain * model.pipeline.vae.config.scaling_factor)


@pytest.mark.parametrize("vae", [{"channels": 8}, {"blocks": 3}])
def test_a_vae_of_another_model_is_said(model: LoadedModel, vae: dict[str, int]) -> None:
    model.pipeline.register_modules(vae=tiny_vae(**vae))
    with pytest.raises(UnsupportedPipeline, match="where the network takes 4 x 8 x 8"):
        invert(model, tiny_models_picture(), InversionRequest(steps=2))


def test_plain_settings_are_enough() -> None:
    """A model of one's own with its own scheduler draws what its pipeline draws."""
    pipeline = tiny_models.sd()
    preset = ModelPreset(
        steps=2, guidance_scale=3.0, start_step=0, start_layer=0, height=SIZE, width=SIZE
    )
    model = LoadedModel(pipeline=pipeline, name="own", family="sd", preset=preset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = generate(model, GenerateRequest(source_prompt="a cat", target_prompts=("a dog",)))
    assert isinstance(replace(made.request, seed=1), ResolvedRequest)
