"""Layouts on the U-Net: diffusers' own ControlNet and T2I-Adapter pipelines are the oracle."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import tiny_models
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from masactrl.attention import Rows, Schedule, without_condition
from masactrl.errors import ConfigError, ControlNotApplied, RowsError
from masactrl.layouts.attach import Guide, attach_layouts
from masactrl.methods import MasaCtrl

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
PIPES = {
    "controlnet": (tiny_models.sd_controlnet, StableDiffusionPipeline, "controlnet", 10),
    "adapter": (tiny_models.sd_adapter, StableDiffusionPipeline, "adapter", 10),
    "sdxl controlnet": (
        tiny_models.sdxl_controlnet,
        StableDiffusionXLPipeline,
        "controlnet",
        44,
    ),
}


@pytest.fixture(scope="module", params=PIPES)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, Any, MasaCtrl]:
    """The stock pipeline with a layout, a plain one of the same parts, the network, a control."""
    make, plain, name, layer = PIPES[request.param]
    stock = make()
    parts = {k: v for k, v in stock.components.items() if k != name}
    if plain is StableDiffusionPipeline:
        parts["requires_safety_checker"] = False
    made = plain(**parts)
    made.set_progress_bar_config(disable=True)
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=layer))
    return stock, made, getattr(stock, name), control


def picture(seed: int) -> Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed))


def oracle(stock: Any, *seeds: int, **options: Any) -> Tensor:
    shown = torch.stack([picture(seed) for seed in seeds])
    return tiny_models.run(stock, PROMPTS, image=shown, **options)


def test_two_layouts_are_those_of_the_stock_pipeline_to_the_bit(case: Any) -> None:
    stock, plain, network, _ = case
    guide = Guide(network=network, pictures=(picture(1), picture(2)))
    before = tiny_models.run(plain, PROMPTS)
    with attach_layouts(plain, [guide], images=2):
        led = tiny_models.run(plain, PROMPTS)
    assert torch.equal(led, oracle(stock, 1, 2))
    assert not torch.equal(led, before)
    assert torch.equal(tiny_models.run(plain, PROMPTS), before)


def test_an_image_without_a_layout_gets_nothing_to_the_bit(case: Any) -> None:
    stock, plain, network, _ = case
    before = tiny_models.run(plain, PROMPTS)
    with attach_layouts(plain, [Guide(network=network, pictures=(None, picture(2)))], images=2):
        led = tiny_models.run(plain, PROMPTS)
    assert torch.equal(led[0], before[0])
    assert not torch.equal(led[1], before[1])
    with without_condition(stock, images=2):
        wanted = oracle(stock, 1, 2)
    assert torch.allclose(led, wanted, atol=1e-5 * float(wanted.abs().max()))


def test_control_and_layout_together(case: Any) -> None:
    stock, plain, network, control = case
    guide = Guide(network=network, pictures=(None, picture(2)))
    with without_condition(stock, images=2), control.attach(stock, PAIR):
        wanted = oracle(stock, 1, 2)
    results = []
    for order in ("layout first", "control first"):
        with ExitStack() as stack:
            if order == "layout first":
                stack.enter_context(attach_layouts(plain, [guide], images=2))
                stack.enter_context(control.attach(plain, PAIR))
            else:
                stack.enter_context(control.attach(plain, PAIR))
                stack.enter_context(attach_layouts(plain, [guide], images=2))
            results.append(tiny_models.run(plain, PROMPTS))
    assert torch.equal(*results)
    assert torch.allclose(results[0], wanted, atol=1e-5 * float(wanted.abs().max()))
    # The source is neither led nor controlled.
    assert torch.equal(results[0][0], tiny_models.run(plain, PROMPTS)[0])


def test_scale_and_part_of_the_run(case: Any) -> None:
    stock, plain, network, _ = case
    before = tiny_models.run(plain, PROMPTS)

    def led(**options: float) -> Tensor:
        guide = Guide(network=network, pictures=(picture(1), picture(2)), **options)
        with attach_layouts(plain, [guide], images=2):
            return tiny_models.run(plain, PROMPTS)

    assert torch.equal(led(scale=0.0), before)
    name = "adapter" if hasattr(stock, "adapter") else "controlnet"
    half = oracle(stock, 1, 2, **{f"{name}_conditioning_scale": 0.5})
    assert torch.allclose(led(scale=0.5), half, atol=1e-5 * float(half.abs().max()))
    early = led(end=0.5)
    assert not torch.equal(early, before)
    assert not torch.equal(early, led())
    if name == "controlnet":
        assert torch.equal(early, oracle(stock, 1, 2, control_guidance_end=0.5))
        late = oracle(stock, 1, 2, control_guidance_start=0.5)
        assert torch.equal(led(begin=0.5), late)


def test_several_layouts_add_up(case: Any) -> None:
    _, plain, network, _ = case
    one = Guide(network=network, pictures=(None, picture(2)), scale=0.4)
    other = Guide(network=network, pictures=(None, picture(2)), scale=0.6)
    whole = Guide(network=network, pictures=(None, picture(2)))
    made = []
    for guides in ([one, other], [whole]):
        with attach_layouts(plain, guides, images=2):
            made.append(tiny_models.run(plain, PROMPTS))
    assert torch.allclose(*made, atol=2e-5 * float(made[0].abs().max()))


def test_without_guidance_and_after_an_exception(case: Any) -> None:
    stock, plain, network, _ = case
    guide = Guide(network=network, pictures=(picture(1), picture(2)))
    with attach_layouts(plain, [guide], images=2):
        led = tiny_models.run(plain, PROMPTS, guidance=1.0)
    assert torch.equal(led, oracle(stock, 1, 2, guidance=1.0))
    before = tiny_models.run(plain, PROMPTS)
    with pytest.raises(KeyboardInterrupt), attach_layouts(plain, [guide], images=2):
        raise KeyboardInterrupt
    assert torch.equal(tiny_models.run(plain, PROMPTS), before)


def test_what_cannot_be_is_said(case: Any) -> None:
    _, plain, network, _ = case
    with pytest.raises(ConfigError, match="begin lies before the end"):
        Guide(network=network, pictures=(picture(1),), begin=0.6, end=0.5)
    with pytest.raises(ConfigError, match="accepted is 0 and more"):
        Guide(network=network, pictures=(picture(1),), scale=-1.0)
    with pytest.raises(ConfigError, match="No picture was given"):
        Guide(network=network, pictures=(None,))
    with pytest.raises(ConfigError, match="several shapes"):
        Guide(network=network, pictures=(picture(1), picture(1)[:, :32]))
    guide = Guide(network=network, pictures=(picture(1), picture(2)))
    with pytest.raises(ConfigError, match="pictures for 2 images and the run has 3"):
        attach_layouts(plain, [guide], images=3).__enter__()
    three = Guide(network=network, pictures=(picture(1),) * 3)
    wrong = pytest.raises(RowsError, match="no multiple of the 3")
    with wrong, attach_layouts(plain, [three], images=3):
        tiny_models.run(plain, PROMPTS)
    never = Guide(network=network, pictures=(picture(1), picture(2)), begin=0.99)
    idle = pytest.raises(ControlNotApplied, match="widen it")
    with idle, attach_layouts(plain, [never], images=2):
        tiny_models.run(plain, PROMPTS)
