"""Pipelines, schedulers and guidance: who is controlled, when, and what the report says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import diffusers
import pytest
import tiny_models
import torch
from oracles.literal import Literal

from masactrl.attention import PRESETS, Rows, Schedule, WordMasks
from masactrl.errors import MaskError, UnsupportedPipeline
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
LATE = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10))
# Several of diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SCHEDULERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
)
OPTIONS = {"PNDMScheduler": {"skip_prk_steps": True}}  # as in Stable Diffusion's configurations


def difference(one: Tensor, other: Tensor) -> list[float]:
    return ((one - other).abs().amax(dim=(1, 2, 3)) / other.abs().max()).tolist()


def generator() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0) for _ in PROMPTS]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_models.sd()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler(name: str) -> None:
    pipe, written_out = tiny_models.sd(), tiny_models.sd()
    for each in (pipe, written_out):
        each.scheduler = getattr(diffusers, name).from_config(
            each.scheduler.config, **OPTIONS.get(name, {})
        )
    plain = tiny_models.run(pipe, PROMPTS, generator=generator())
    Literal(written_out.unet, reads=PAIR.reads, branches=2, latent=(8, 8), start_layer=10)
    theirs = tiny_models.run(written_out, PROMPTS, generator=generator())
    with MasaCtrl(schedule=Schedule(start_layer=10)).attach(pipe, PAIR) as attached:
        ours = tiny_models.run(pipe, PROMPTS, generator=generator())
    assert attached.report.steps == (0, 1, 2)
    assert len(attached.report.timesteps) == 3
    assert attached.report.complete
    assert max(difference(ours, theirs)) < 1e-4
    source, target = difference(ours, plain)
    assert source == 0.0
    assert target > 1e-3
    with LATE.attach(pipe, PAIR) as attached:
        late = tiny_models.run(pipe, PROMPTS, generator=generator())
    assert attached.report.steps == (1, 2)
    assert difference(late, ours)[1] > 1e-4
    assert torch.equal(tiny_models.run(pipe, PROMPTS, generator=generator()), plain)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_and_its_rescaling(guidance: float, rescale: float) -> None:
    pipe, written_out = tiny_models.sd(), tiny_models.sd()
    options: dict[str, Any] = {"guidance": guidance, "guidance_rescale": rescale}
    Literal(
        written_out.unet,
        reads=PAIR.reads,
        branches=2 if guidance > 1 else 1,
        latent=(8, 8),
        start_step=1,
        start_layer=10,
    )
    plain = tiny_models.run(pipe, PROMPTS, **options)
    with LATE.attach(pipe, PAIR):
        ours = tiny_models.run(pipe, PROMPTS, **options)
        unscaled = tiny_models.run(pipe, PROMPTS, guidance=guidance)
    assert max(difference(ours, tiny_models.run(written_out, PROMPTS, **options))) < 1e-4
    assert difference(ours, plain)[1] > 1e-3
    # Rescaling acts where there is guidance to rescale, and only there.
    assert (min(difference(ours, unscaled)) > 1e-2) == (guidance > 1 and rescale > 0)
    assert torch.equal(tiny_models.run(pipe, PROMPTS, **options), plain)


def stable_diffusion_2(prediction: str) -> Any:
    """Linear projections, heads by level, float32 scores; v-prediction as in 2.0 and 2.1."""
    pipe = tiny_models.sd()
    torch.manual_seed(0)
    pipe.unet = type(pipe.unet).from_config(
        pipe.unet.config,
        use_linear_projection=True,
        attention_head_dim=(1, 2, 4, 4),
        upcast_attention=True,
    )
    tiny_models._sharpen(pipe.unet)
    pipe.scheduler = type(pipe.scheduler).from_config(
        pipe.scheduler.config, prediction_type=prediction
    )
    return pipe


@pytest.mark.parametrize("words", [False, True])
def test_stable_diffusion_2_with_v_prediction(words: bool) -> None:
    pipe, written_out = stable_diffusion_2("v_prediction"), stable_diffusion_2("v_prediction")
    masks = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4)
    control = MasaCtrl(schedule=LATE.schedule, masks=masks if words else None)
    plain = tiny_models.run(pipe, PROMPTS, size=(16, 12))
    with control.attach(pipe, PAIR):
        ours = tiny_models.run(pipe, PROMPTS, size=(16, 12))
    Literal(
        written_out.unet,
        reads=PAIR.reads,
        branches=2,
        latent=(16, 12),
        start_step=1,
        start_layer=10,
        tokens=((2,), (2,)) if words else None,
        threshold=0.4,
    )
    assert max(difference(ours, tiny_models.run(written_out, PROMPTS, size=(16, 12)))) < 1e-4
    source, target = difference(ours, plain)
    assert source < 1e-5
    assert target > 1e-3
    assert torch.equal(tiny_models.run(pipe, PROMPTS, size=(16, 12)), plain)
    noise_instead = stable_diffusion_2("epsilon")
    with control.attach(noise_instead, PAIR):
        other = tiny_models.run(noise_instead, PROMPTS, size=(16, 12))
    assert min(difference(other, ours)) > 1e-2


@pytest.mark.parametrize("form", ["replace", "union"])
def test_sdxl(form: Any) -> None:
    xl = tiny_models.sdxl()
    plain = tiny_models.run(xl, PROMPTS, size=(8, 12))
    for name in ("sdxl-34", "sdxl-44", "sdxl-54", "sdxl-64"):
        with MasaCtrl(schedule=PRESETS[name], form=form).attach(xl, PAIR) as attached:
            edited = tiny_models.run(xl, PROMPTS, size=(8, 12))
        source, target = difference(edited, plain)
        assert source < 1e-5
        assert target > 1e-3
        assert attached.report.layers == tuple(range(int(name[5:]), 70))
        assert attached.report.steps == (1, 2)  # 0.08 of 3 steps
    assert torch.equal(tiny_models.run(xl, PROMPTS, size=(8, 12)), plain)


@pytest.mark.parametrize("make", [tiny_models.sd_img2img, tiny_models.sdxl_img2img])
def test_image_to_image(make: Any) -> None:
    img2img = make()
    layer = 10 if make is tiny_models.sd_img2img else 44
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def run(image: Tensor = pictures[:2], strength: float = 0.5) -> Tensor:
        with torch.no_grad():
            result = img2img(
                PROMPTS,
                image=image,
                strength=strength,
                num_inference_steps=8,
                generator=generator(),
                output_type="latent",
            )
        return result.images

    plain = run()
    with MasaCtrl(schedule=Schedule(start_step=1, start_layer=layer)).attach(
        img2img, PAIR
    ) as attached:
        edited = run()
    assert len(attached.report.timesteps) == 4  # half of the steps are run
    assert attached.report.steps == (1, 2, 3)
    source, target = difference(edited, plain)
    assert source < 1e-6
    assert target > 1e-4
    with MasaCtrl(schedule=Schedule(max_timestep=300, start_layer=layer)).attach(
        img2img, PAIR
    ) as attached:
        run()
    assert all(attached.report.timesteps[step] <= 300 for step in attached.report.steps)
    assert 0 < len(attached.report.steps) < 4
    # A fraction is one of the steps that are run, whatever the strength.
    with MasaCtrl(schedule=Schedule(fraction=(0.5, 1.0), start_layer=layer)).attach(
        img2img, PAIR
    ) as attached:
        run()
        longer = run(strength=0.75)
        other = run(pictures[2:], strength=0.75)
    assert [each.steps for each in attached.runs] == [(2, 3), (3, 4, 5), (3, 4, 5)]
    assert min(difference(longer, edited)) > 1e-2  # the strength acts
    assert min(difference(longer, other)) > 1e-2  # and so do the pictures
    assert torch.equal(run(), plain)


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (9, 7)])
def test_any_size(pipe: Any, size: tuple[int, int]) -> None:
    plain = tiny_models.run(pipe, PROMPTS, size=size)
    masks = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4)
    for control in (LATE, MasaCtrl(schedule=LATE.schedule, masks=masks)):
        with control.attach(pipe, PAIR):
            source, target = difference(tiny_models.run(pipe, PROMPTS, size=size), plain)
        assert source < 1e-5
        assert target > 1e-3
    assert torch.equal(tiny_models.run(pipe, PROMPTS, size=size), plain)


@pytest.fixture(scope="module")
def pag() -> Any:
    """Perturbed-attention guidance: branches unconditional, conditional and perturbed."""
    parts = tiny_models.sd().components
    made = diffusers.StableDiffusionPAGPipeline(
        **parts, pag_applied_layers=["mid"], requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_three_branches(pag: Any) -> None:
    plain = tiny_models.run(pag, PROMPTS, pag_scale=3.0)
    with LATE.attach(pag, PAIR):
        source, target = difference(tiny_models.run(pag, PROMPTS, pag_scale=3.0), plain)
    assert source < 1e-6
    assert target > 1e-3
    assert torch.equal(tiny_models.run(pag, PROMPTS, pag_scale=3.0), plain)


def test_the_branch_of_the_prompt_can_be_told(pag: Any) -> None:
    def masks(branch: int) -> MasaCtrl:
        wanted = WordMasks(
            words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4, branch=branch
        )
        return MasaCtrl(schedule=LATE.schedule, masks=wanted)

    with masks(1).attach(pag, PAIR) as attached:
        tiny_models.run(pag, PROMPTS, pag_scale=3.0)
    conditional = attached.report.maps[1, 10]
    with masks(0).attach(pag, PAIR) as attached:
        tiny_models.run(pag, PROMPTS, pag_scale=3.0)
    assert not torch.equal(attached.report.maps[1, 10], conditional)
    with pytest.raises(MaskError, match="0 to 2"), masks(3).attach(pag, PAIR):
        tiny_models.run(pag, PROMPTS, pag_scale=3.0)


def test_a_perturbed_layer_cannot_be_controlled(pag: Any) -> None:
    with (
        pytest.raises(UnsupportedPipeline, match="Perturbed-attention"),
        MasaCtrl(schedule=Schedule(layers=(6,))).attach(pag, PAIR),
    ):
        tiny_models.run(pag, PROMPTS, pag_scale=3.0)
