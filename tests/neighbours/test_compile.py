"""The control on compiled networks. Tracing takes time by the layer, so the U-Net has four."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import StableDiffusionPipeline
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
LEFT = torch.tensor([[1.0, 0.0]])
FORMS = {
    # Every network state is a graph of its own, so only this one has steps without control.
    "words": MasaCtrl(
        schedule=Schedule(start_step=1, start_layer=2),
        masks=WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4),
    ),
    "replace": MasaCtrl(schedule=Schedule(start_layer=2)),
    "union": MasaCtrl(schedule=Schedule(start_layer=2), form="union"),
    "given": MasaCtrl(schedule=Schedule(start_layer=2), masks=GivenMasks(images=(LEFT, LEFT))),
}
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


def controlled(pipe: StableDiffusionPipeline, form: str) -> Tensor:
    with FORMS[form].attach(pipe, PAIR) as attached:
        latents = tiny_models.run(pipe, PROMPTS)
    assert attached.report.layers == (2, 3)
    return latents


def same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() / other.abs().max() < 1e-5)


def eager(graph: torch.fx.GraphModule, _inputs: object) -> object:
    """What the backend of that name does; looking a name up imports every other backend."""
    return graph.forward


def compile_after(pipe: StableDiffusionPipeline, form: str) -> Tensor:
    with FORMS[form].attach(pipe, PAIR):
        pipe.unet = torch.compile(pipe.unet, backend=eager)
        return tiny_models.run(pipe, PROMPTS)


def compile_in_place(pipe: StableDiffusionPipeline, form: str) -> Tensor:
    pipe.unet.compile(backend=eager)
    return controlled(pipe, form)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "forms"), [(compile_after, ["union"]), (compile_in_place, ["given", "replace"])]
)
def test_compiled_and_controlled(
    how: Callable[[StableDiffusionPipeline, str], Tensor], forms: list[str]
) -> None:
    torch._dynamo.reset()
    pipe = tiny_models.sd_shallow()
    plain = tiny_models.run(pipe, PROMPTS)
    expected = [controlled(pipe, form) for form in forms]
    for one in expected:
        assert (one - plain)[1].abs().max() / plain.abs().max() > 1e-3
    assert same(how(pipe, forms[0]), expected[0])
    for form, one in zip(forms[1:], expected[1:], strict=True):
        assert same(controlled(pipe, form), one)
    assert same(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_detached_the_compiled_network_keeps_every_bit(in_place: bool) -> None:
    torch._dynamo.reset()
    pipe = tiny_models.sd_shallow()
    if in_place:
        pipe.unet.compile(backend=eager)
    else:
        pipe.unet = torch.compile(pipe.unet, backend=eager)
    before = tiny_models.run(pipe, PROMPTS, steps=2)
    with FORMS["replace"].attach(pipe, PAIR):
        edited = tiny_models.run(pipe, PROMPTS, steps=2)
    assert (edited - before)[1].abs().max() / before.abs().max() > 1e-3
    assert torch.equal(tiny_models.run(pipe, PROMPTS, steps=2), before)


@pytest.mark.slow
def test_compiled_before_and_no_more_graphs_with_more_steps() -> None:
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(graph)
        return eager(graph, _inputs)

    pipe = tiny_models.sd_shallow()
    plain, expected = tiny_models.run(pipe, PROMPTS), controlled(pipe, "words")
    assert (expected - plain)[1].abs().max() / plain.abs().max() > 1e-3
    pipe.unet = torch.compile(pipe.unet, backend=counting)
    with FORMS["words"].attach(pipe, PAIR):
        assert same(tiny_models.run(pipe, PROMPTS), expected)
        assert len(graphs) == 2  # one without control, one with
        tiny_models.run(pipe, PROMPTS, steps=5)
        assert len(graphs) == 2
    assert same(tiny_models.run(pipe, PROMPTS), plain)
