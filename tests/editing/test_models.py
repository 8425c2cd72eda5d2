"""Every inversion and every method on SD and SDXL; v-prediction; models told their guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from editing_parts import HEIGHT, WIDTH, loaded, outcome, random_picture, relative

from masactrl.errors import ConfigError
from masactrl.inversion import inversions_of
from masactrl.methods import methods_of
from masactrl.models.denoiser import Denoiser
from masactrl.runs.invert import EditRequest, InversionRequest, invert, plan

if TYPE_CHECKING:
    from editing_parts import Inverted

    from masactrl.models import LoadedModel

OPTIONS: dict[str, dict[str, Any]] = {
    "prompt-to-prompt": {"self_attention": 0.5},
    "unified": {"rigid": 0.4},
    "sdedit": {"strength": 0.7},
    "imagic": {"text_steps": 2, "tuning_steps": 2},
    "blended-latent": {"threshold": 0.35, "grow": 0.0},
}
REPLAYED = ("direct", "virtual")  # what comes back whatever the network says


def inversion(method: str, **more: Any) -> InversionRequest:
    few = 1 if method in ("fixed-point", "null-text") else None
    return InversionRequest(method=method, source_prompt="a cat", iterations=few, **more)


def asked(method: str, **more: Any) -> EditRequest:
    own = OPTIONS.get(method, {})
    return EditRequest(
        target_prompts=("a dog running",), compare=False, method=method, method_options=own, **more
    )


@pytest.mark.parametrize("name", inversions_of("diffusion"))
def test_every_method_goes_with_every_inversion(inverted: Inverted, name: str) -> None:
    few = 1 if name in ("fixed-point", "null-text") else None
    session = inverted(method=name, source_prompt="a cat", iterations=few)
    made = {method: outcome(session, asked(method)) for method in methods_of("diffusion")}
    for method, one in made.items():
        assert one.passes == session.plan(asked(method)).edit, method
        assert bool(one.controlled.isfinite().all()), method
    targets = [one.controlled for one in made.values()]
    assert all(relative(a, b) > 1e-4 for k, a in enumerate(targets) for b in targets[:k])
    if name in REPLAYED:
        wanted = session.trajectory.latents[-1]
        assert all(relative(one.source, wanted) < 1e-5 for one in made.values())


@pytest.fixture(scope="module")
def big() -> LoadedModel:
    return loaded(tiny_models.sdxl(), layer=44)


@pytest.mark.parametrize("name", inversions_of("diffusion"))
def test_every_inversion_on_sdxl(big: LoadedModel, name: str) -> None:
    session = invert(big, random_picture(), inversion(name, steps=2))
    made = session.edit(asked("masactrl", start_step=0))
    assert made.targets[0].controlled.size == (WIDTH, HEIGHT)
    assert made.passes["edit"] == session.plan(asked("masactrl", start_step=0)).edit
    assert made.passes["invert"] <= session.plan(asked("masactrl", start_step=0)).inversion
    if name in REPLAYED:
        assert made.quality.psnr_to_vae == float("inf")


@pytest.mark.parametrize("method", [name for name in methods_of("diffusion") if name != "masactrl"])
def test_every_method_on_sdxl(big: LoadedModel, method: str) -> None:
    session = invert(big, random_picture(), inversion("direct", steps=3))
    made, plain = (outcome(session, asked(name)) for name in (method, "fixed-seed"))
    apart = relative(made.controlled, plain.controlled)
    assert apart == 0 if method == "fixed-seed" else apart > 1e-3


@pytest.fixture(scope="module")
def velocity() -> LoadedModel:
    pipeline = tiny_models.sd()
    config = {**pipeline.scheduler.config, "prediction_type": "v_prediction"}
    config.pop("_use_default_values", None)  # a choice, and no default any more
    pipeline.scheduler = DDIMScheduler.from_config(config)
    return loaded(pipeline)


@torch.no_grad()
def test_v_prediction_is_inverted_through_the_noise_that_it_means(velocity: LoadedModel) -> None:
    session = invert(velocity, random_picture(), InversionRequest(method="ddim"))
    pipeline, path = velocity.pipeline, session.trajectory.latents
    assert session.trajectory.schedule.prediction == "v_prediction"
    # diffusers' own inverse step, given the noise: its conversion of v is another (see pitfalls).
    config = {**pipeline.scheduler.config, "prediction_type": "epsilon", "clip_sample": False}
    scheduler = DDIMInverseScheduler.from_config(config)
    scheduler.set_timesteps(session.trajectory.steps)
    nothing = Denoiser(pipeline).encode_text([""]).hidden
    z = path[-1]
    for level, timestep in enumerate(scheduler.timesteps.tolist()):
        v = pipeline.unet(z, timestep, nothing).sample
        a = scheduler.alphas_cumprod[timestep]
        eps = a.sqrt() * v + (1 - a).sqrt() * z
        z = scheduler.step(eps, timestep, z).prev_sample
        assert relative(z, path[-2 - level]) < 1e-4


@pytest.mark.parametrize("name", ["direct", "edit-friendly", "virtual"])
def test_v_prediction_comes_back_and_is_edited(velocity: LoadedModel, name: str) -> None:
    session = invert(velocity, random_picture(), InversionRequest(method=name))
    request = EditRequest(target_prompts=("a dog running",), half=False)
    joint, cached = (outcome(session, replace(request, mode=mode)) for mode in ("joint", "cached"))  # type: ignore[arg-type]
    assert relative(joint.source, session.trajectory.latents[-1]) < 1e-4
    assert relative(joint.controlled, cached.controlled) < 1e-4
    assert joint.uncontrolled is not None
    assert relative(joint.controlled, joint.uncontrolled) > 1e-3


@pytest.fixture(scope="module")
def lcm() -> LoadedModel:
    """A U-Net that reads its guidance, as latent consistency models do, and their scheduler."""
    pipeline = tiny_models.sd()
    torch.manual_seed(5)
    config = {**pipeline.unet.config, "time_cond_proj_dim": 8}
    config.pop("_use_default_values", None)  # a choice, and no default any more
    pipeline.unet = UNet2DConditionModel.from_config(config).eval()
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    return loaded(pipeline)


@pytest.mark.parametrize("name", ["virtual", "direct"])
@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_a_model_that_reads_its_guidance_is_called_once(
    lcm: LoadedModel, name: str, mode: Any
) -> None:
    asked_of = InversionRequest(method=name, source_prompt="a cat", steps=2)
    session = invert(lcm, random_picture(), asked_of)
    request = EditRequest(target_prompts=("a dog running",), mode=mode, start_step=0)
    cost = session.plan(request)
    made = session.edit(request)
    assert made.passes == {
        "invert": cost.inversion,
        "source": cost.source,
        "edit": cost.edit,
    }
    assert (cost.plain, cost.edit) == (2, 2 * (3 if mode == "joint" else 2))
    assert cost == plan(lcm, random_picture(), asked_of, request)
    assert made.quality.psnr_to_vae == float("inf")
    one, other = (
        outcome(session, replace(request, guidance_scale=scale)).controlled for scale in (1.0, 8.0)
    )
    assert relative(one, other) > 1e-4  # it was told


def test_what_a_model_without_a_second_branch_cannot_use_is_said(lcm: LoadedModel) -> None:
    for name in ("null-text", "negative-prompt"):
        with pytest.raises(ConfigError, match="told its guidance as a number"):
            invert(lcm, random_picture(), inversion(name, steps=2))
    session = invert(lcm, random_picture(), inversion("virtual", steps=2))
    with pytest.raises(ConfigError, match="A negative prompt is what guidance leads away from"):
        session.edit(EditRequest(target_prompts=("a dog",), negative_prompt="a bird"))
    longer = invert(lcm, random_picture(), inversion("virtual", steps=3))
    made = longer.edit(asked("unified"))
    assert made.passes["edit"] == longer.plan(asked("unified")).edit == 3 * 2


def test_embeddings_are_in_the_plan(inverted: Inverted) -> None:
    session = inverted(method="null-text", source_prompt="a cat", iterations=1)
    assert session.plan(asked("masactrl")).trajectory_bytes == session.trajectory.nbytes
