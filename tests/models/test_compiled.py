"""A compiled network compiles nothing anew for another step, target, prompt, form or S."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny_models as tiny
import torch
from PIL import Image

from masactrl.errors import ConfigError
from masactrl.models import LoadedModel, model_of
from masactrl.models.compiled import compiled_run, with_compiled
from masactrl.rerun.kinds import command_line
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.generate import generate
from masactrl.runs.invert import InversionRequest, invert
from masactrl.runs.recipe import Recipe, stated_model
from masactrl.runs.request import GenerateRequest


class Counting:
    """A backend that runs what it was given as it is, and counts it."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: object) -> object:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend() -> Iterator[Counting]:
    torch._dynamo.reset()
    trace = logging.getLogger("torch.__trace")  # pytest listens to everything, which takes long
    level = trace.level
    trace.setLevel(logging.CRITICAL)
    yield Counting()
    trace.setLevel(level)
    torch._dynamo.reset()


def model() -> LoadedModel:
    return model_of(tiny.sd_shallow())


def asked(target: str, steps: int = 3, **more: object) -> GenerateRequest:
    given: dict[str, object] = {"start_step": 1, "start_layer": 2, **more}
    return GenerateRequest(
        source_prompt="a cat", target_prompts=(target,), steps=steps, height=64, width=64, **given
    )


@pytest.mark.slow
def test_nothing_is_compiled_anew_and_pictures_are_the_same(backend: Counting) -> None:
    expected = generate(model(), asked("a dog")).latents
    fast = with_compiled(model(), "kernels", backend=backend)
    made = generate(fast, asked("a dog")).latents
    for name, latents in expected.items():
        assert torch.allclose(made[name], latents, atol=1e-5 * float(latents.abs().max()))
    once = backend.graphs
    assert once > 0
    generate(fast, asked("a red bird", steps=5, start_step=2, guidance_scale=3.0))
    generate(fast, asked("a horse", start_layer=3))
    assert backend.graphs == once

    picture = Image.new("RGB", (64, 64), "green")

    def edited(prompt: str, start_step: int) -> None:
        edit = EditRequest(
            target_prompts=(prompt,),
            start_step=start_step,
            start_layer=2,
            guidance_scale=1.0,
            compare=False,
        )
        session = invert(fast, picture, InversionRequest(steps=3, fit="keep"), edit=edit)
        session.edit(edit)

    edited("a dog", 1)
    assert backend.graphs > once  # other batches
    once = backend.graphs
    edited("a red bird running", 2)
    assert backend.graphs == once


def test_what_cannot_be_is_a_sentence() -> None:
    given = model()
    with pytest.raises(ConfigError, match="accepted are none, graphs, kernels"):
        with_compiled(given, "fast")
    with pytest.raises(ConfigError, match="CUDA graphs, and the device is cpu"):
        with_compiled(given, "graphs")
    with pytest.raises(ConfigError, match="offload=model keeps parts"):
        with_compiled(given, "kernels", offload="model")
    assert with_compiled(given, "none") is given
    assert vars(given.denoiser).keys() == vars(model().denoiser).keys()
    with compiled_run(given):
        assert "forward" not in vars(given.denoiser)


def test_a_recipe_says_how_the_model_was_compiled() -> None:
    fast = with_compiled(model_of(tiny.sd_shallow(), name="own"), "kernels", backend="eager")
    assert stated_model(fast).compiled == "kernels"
    assert stated_model(model()).compiled == "none"
    recipe = Recipe(
        kind="generate",
        picture="source",
        model=replace(stated_model(fast), name="puppets", kind="embedded"),
        device="cpu",
        dtype="float32",
        request=asked("a dog").resolve(fast.preset).recipe(),
    )
    assert "--compile kernels" in command_line(recipe)
