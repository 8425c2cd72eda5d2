from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image

from masactrl import GenerateRequest, GenerateResult, Rows, Schedule, generate
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError, ScheduleError
from masactrl.methods import MasaCtrl
from masactrl.models import LoadedModel, default_preset
from masactrl.pictures.images import tensor_to_images
from masactrl.rerun.generate import request_of
from masactrl.runs.generate import StepRecord, rows_of, start_noise

SOURCE, FIRST, SECOND = "a cat standing", "a cat running", "a dog sitting in snow"


def request(**values: Any) -> GenerateRequest:
    """Three steps, of which two are controlled, in the decoder."""
    usual: dict[str, Any] = {
        "source_prompt": SOURCE,
        "target_prompts": (FIRST,),
        "steps": 3,
        "start_step": 1,
        "height": 32,
        "width": 32,
    }
    return GenerateRequest(**{**usual, **values})


def levels(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int()


def apart(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of a pixel, of 255."""
    return int((levels(first) - levels(second)).abs().max())


def plain_run(model: LoadedModel, prompts: list[str], size: int = 32) -> tuple[Image.Image, ...]:
    """What diffusers makes of the prompts, all from the noise of seed 0."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, size // 8, size // 8, generator=generator)
    pictures = model.pipeline(
        prompt=prompts,
        negative_prompt=[""] * len(prompts),
        height=size,
        width=size,
        num_inference_steps=3,
        guidance_scale=7.5,
        latents=noise.repeat(len(prompts), 1, 1, 1),
        output_type="pt",
    ).images
    return tensor_to_images(pictures, signed=False)


def test_rows_say_who_reads_whom() -> None:
    assert rows_of(1) == Rows(images=3, reads=((0,), (0,), (2,)))
    assert rows_of(2) == Rows(images=5, reads=((0,), (0,), (0,), (3,), (4,)))


def test_source_and_uncontrolled_targets_are_those_of_diffusers_to_the_bit(
    model: LoadedModel,
) -> None:
    result = generate(model, request())
    source, _, uncontrolled = plain_run(model, [SOURCE, FIRST, FIRST])
    assert apart(result.source, source) == 0
    assert apart(result.targets[0].uncontrolled, uncontrolled) == 0


def test_the_controlled_target_is_that_of_the_method(model: LoadedModel) -> None:
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10))
    with control.attach(model.pipeline, Rows(images=3, reads=((0,), (0,), (2,)))):
        _, controlled, _ = plain_run(model, [SOURCE, FIRST, FIRST])
    result = generate(model, request())
    assert apart(result.targets[0].controlled, controlled) == 0
    assert apart(result.targets[0].controlled, result.targets[0].uncontrolled) > 3


def test_the_same_request_gives_the_same_pictures(model: LoadedModel) -> None:
    def pictures(seed: int) -> list[bytes]:
        found = generate(model, request(seed=seed)).pictures()
        return [picture.tobytes() for picture in found.values()]

    first = pictures(7)
    assert pictures(7) == first
    assert all(one != other for one, other in zip(pictures(8), first, strict=True))


def test_targets_do_not_depend_on_each_other(model: LoadedModel) -> None:
    both = generate(model, request(target_prompts=(FIRST, SECOND)))
    turned = generate(model, request(target_prompts=(SECOND, FIRST)))
    assert [target.prompt for target in both.targets] == [FIRST, SECOND]
    for one, other in zip(both.targets, reversed(turned.targets), strict=True):
        assert one.prompt == other.prompt
        assert apart(one.controlled, other.controlled) <= 1
        assert apart(one.uncontrolled, other.uncontrolled) <= 1
    assert apart(both.targets[0].controlled, both.targets[1].controlled) > 3


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 4},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0},
        {"negative_prompt": "a red horse"},
        {"start_step": 2},
        {"start_layer": 3},
        {"form": "union"},
        {"strength": 0.5},
        {"seed": 1},
    ],
)
def test_every_setting_changes_the_controlled_picture(
    model: LoadedModel, change: dict[str, Any]
) -> None:
    usual = generate(model, request()).targets[0].controlled
    assert apart(generate(model, request(**change)).targets[0].controlled, usual) > 0


def test_no_strength_is_no_control(model: LoadedModel) -> None:
    target = generate(model, request(strength=0.0)).targets[0]
    assert apart(target.controlled, target.uncontrolled) == 0


def test_pictures_have_the_size_that_was_asked_for(model: LoadedModel) -> None:
    result = generate(model, request(height=24, width=40, steps=2, start_step=0))
    assert {picture.size for picture in result.pictures().values()} == {(40, 24)}


def test_the_start_noise_is_one_and_the_same_everywhere(model: LoadedModel) -> None:
    settings = request(seed=3).resolve(model.preset)
    noise = start_noise(model, settings)
    assert noise.shape == (1, 4, 4, 4)
    assert torch.equal(noise, torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3)))
    model.pipeline.unet.to(torch.bfloat16)
    assert torch.equal(start_noise(model, settings), noise.bfloat16())


def test_the_result_says_how_it_was_made(model: LoadedModel) -> None:
    result = generate(
        model, GenerateRequest(source_prompt=SOURCE, target_prompts=(FIRST,), steps=2)
    )
    assert (result.model, result.device, result.dtype) == ("tiny", "cpu", "float32")
    assert (result.request.guidance_scale, result.request.start_step) == (7.5, 0)
    assert result.source.size == (model.preset.width, model.preset.height)
    assert result.seconds > 0
    assert result.warnings == ()


def test_every_step_is_reported(model: LoadedModel) -> None:
    records: list[StepRecord] = []
    generate(model, request(), on_step=records.append)
    assert [(record.step, record.steps) for record in records] == [(0, 3), (1, 3), (2, 3)]
    assert [record.timestep for record in records] == [667, 334, 1]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"start_step": 3}, r"start_step=3.*0 to 2"),
        ({"start_layer": 16}, r"start_layer=16.*0 to 15"),
    ],
)
def test_beyond_the_run_or_the_model_names_the_range(
    model: LoadedModel, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ScheduleError, match=sentence):
        generate(model, request(**values))


def test_the_pipeline_is_left_as_it_was_found(model: LoadedModel) -> None:
    class StopError(Exception):
        pass

    def stop(record: StepRecord) -> None:
        if record.step == 1:
            raise StopError

    before = plain_run(model, [SOURCE, FIRST])
    processors = dict(model.pipeline.unet.attn_processors)
    generate(model, request())
    with pytest.raises(StopError):
        generate(model, request(), on_step=stop)
    assert model.pipeline.unet.attn_processors == processors
    for one, other in zip(plain_run(model, [SOURCE, FIRST]), before, strict=True):
        assert apart(one, other) == 0


def test_a_model_that_makes_no_numbers_is_said_to(model: LoadedModel) -> None:
    model.pipeline.vae.post_quant_conv.bias.data.fill_(float("nan"))
    with pytest.raises(MasaCtrlError, match=r"NaN or infinite.*try float32"):
        generate(model, request())


def test_a_size_that_the_latents_cannot_have_is_refused(model: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        generate(model, request(height=30))


def test_prompts_that_are_not_fully_seen_give_a_warning(model: LoadedModel) -> None:
    long = "a cat " * 60 + "on the red beach"
    with pytest.warns(ControlWarning, match="longer than the model's 77 tokens") as caught:
        result = generate(model, request(source_prompt=long, steps=2, start_step=0))
    assert [str(one.message) for one in caught] == list(result.warnings)


def test_sdxl_is_served_alike() -> None:
    model = LoadedModel(
        pipeline=tiny_models.sdxl(),
        name="xl",
        family="sdxl",
        preset=default_preset("sdxl", height=32, width=32),
    )
    result: GenerateResult = generate(model, request(steps=2, start_layer=44))
    target = result.targets[0]
    assert apart(target.controlled, target.uncontrolled) > 0
    with pytest.raises(ScheduleError, match="0 to 69"):
        generate(model, request(steps=2, start_layer=70))


def test_a_model_is_a_value(model: LoadedModel) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("method", ["masactrl", "sdedit"])
def test_results_offer_the_latents_of_every_picture(model: LoadedModel, method: str) -> None:
    own = {} if method == "masactrl" else {"start_step": None}
    result = generate(model, request(target_prompts=(FIRST, SECOND), method=method, **own))
    pictures, scale = result.pictures(), model.pipeline.vae.config.scaling_factor
    assert result.latents.keys() == pictures.keys()
    for name, latents in result.latents.items():
        with torch.no_grad():
            decoded = model.pipeline.vae.decode(latents[None] / scale).sample
        (again,) = tensor_to_images(decoded / 2 + 0.5, signed=False)
        assert apart(again, pictures[name]) <= 1, name


def test_the_start_noise_may_be_given(model: LoadedModel) -> None:
    drawn = generate(model, request())
    noise = start_noise(model, drawn.request)
    given = generate(model, request(seed=5), noise=noise)
    assert given.source.tobytes() == drawn.source.tobytes()
    assert given.targets[0].controlled.tobytes() == drawn.targets[0].controlled.tobytes()
    with pytest.raises(ConfigError, match="start noise that was given as an object"):
        request_of(given.recipe("source").request)
    with pytest.raises(ConfigError, match=r"32x32 need \(1, 4, 4, 4\)"):
        generate(model, request(), noise=noise[..., :2])
    with pytest.raises(ConfigError, match="all of it numbers"):
        generate(model, request(), noise=noise * torch.nan)
