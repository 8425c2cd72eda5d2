"""Guidance in a part of a run: the stock loop with guidance switched off, and half the rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_mmdit
import tiny_models
from editing_parts import TARGETS, loaded, outcome, random_picture, relative

from masactrl.errors import ConfigError
from masactrl.models import model_of
from masactrl.runs.generate import generate, start_noise
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.request import GenerateRequest

STEPS = 4


def rows_seen(network: Any) -> list[int]:
    """The rows of every call from now on, as the network's first layer gets them."""
    seen: list[int] = []
    first = network.conv_in if hasattr(network, "conv_in") else network.pos_embed
    first.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    return seen


@pytest.mark.parametrize("make", [tiny_models.sd, tiny_models.sdxl, tiny_mmdit.sd3])
def test_generation_is_the_pipeline_s_with_guidance_switched_off(make: Any) -> None:
    pipeline = make()
    model = model_of(pipeline)
    asked = GenerateRequest(
        source_prompt="a cat",
        target_prompts=("a dog",),
        steps=STEPS,
        guidance_scale=7.0,
        height=64,
        width=64,
        method="fixed-seed",
        guidance_begin=0.25,
        guidance_end=0.75,
    )
    seen = rows_seen(model.denoiser)
    made = generate(model, asked)
    assert seen == [3, 6, 6, 3]

    def switch(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 7.0 if 1 <= step + 1 < 3 else 1.0 + 1e-9
        return values

    noise = start_noise(model, asked.resolve(model.preset))
    common: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "height": 64,
        "width": 64,
        "guidance_scale": 1.0 + 1e-9,
        "output_type": "latent",
        "callback_on_step_end": switch,
    }
    wanted = pipeline(["a cat"] * 3, latents=noise.repeat(3, 1, 1, 1), **common).images[:1]
    assert relative(made.latents["source"][None], wanted) < 1e-4


@pytest.mark.parametrize("prompt", ["", "a cat"])
@pytest.mark.parametrize("change", [{}, {"guidance_scale": 2.0}])
def test_edits_take_fewer_rows_and_read_the_same(prompt: str, change: dict[str, Any]) -> None:
    if change and not prompt:
        pytest.skip("guidance of no words is inert")
    model = loaded(tiny_models.sd())
    asked = InversionRequest(source_prompt=prompt, steps=STEPS, **change)
    session = invert(model, random_picture(), asked)
    whole = EditRequest(target_prompts=TARGETS, half=False, mode="cached")
    part = replace(whole, guidance_end=0.5)
    latents = {}
    for mode in ("cached", "joint"):
        session.forget()
        request = replace(part, mode=mode)
        plan, made = session.plan(request), session.edit(request)
        assert made.passes == {"invert": session.passes, "source": plan.source, "edit": plan.edit}
        latents[mode] = outcome(session, request).controlled
    assert session.plan(part).plain == STEPS + 2
    assert session.plan(part).edit == (STEPS + 2) * 4 < session.plan(whole).edit
    assert relative(latents["cached"], latents["joint"]) < 1e-4
    assert relative(outcome(session, whole).controlled, latents["cached"]) > 1e-3


def test_what_is_no_interval_is_a_sentence() -> None:
    prompts: dict[str, Any] = {"target_prompts": ("a dog",)}
    for given, said in (
        ({"guidance_begin": 0.5, "guidance_end": 0.5}, "leave no step"),
        ({"guidance_end": 1.5}, "0 to 1"),
        ({"guidance_end": 0.5, "guidance_scale": 1.0}, "switches it off"),
    ):
        with pytest.raises(ConfigError, match=said):
            EditRequest(**prompts, **given)
        with pytest.raises(ConfigError, match=said):
            GenerateRequest(source_prompt="a cat", **prompts, **given)
    flux = model_of(tiny_mmdit.flux())
    request = GenerateRequest(
        source_prompt="a cat", **prompts, guidance_end=0.5, steps=1, height=64, width=64
    )
    with pytest.raises(ConfigError, match="told to the network as a number"):
        generate(flux, request)
