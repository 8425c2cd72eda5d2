"""Bad input: one sentence each, and a pipeline that is as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tiny_mmdit
import tiny_models
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    UNet2DModel,
)

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.errors import (
    ConfigError,
    MaskError,
    MissingExtra,
    PromptError,
    RowsError,
    ScheduleError,
    UnsupportedPipeline,
)
from masactrl.methods import MasaCtrl, method_named

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
ACTIVE = Schedule(start_step=1, start_layer=10)
HALF = torch.tensor([[1.0, 0.0]])


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_models.sd()


@pytest.fixture(scope="module")
def plain(pipe: Any) -> Tensor:
    return tiny_models.run(pipe, PROMPTS)


def words(*entries: Any, **options: Any) -> WordMasks:
    return WordMasks(words=entries, prompts=tuple(PROMPTS), **options)


BAD_AT_ATTACH: dict[str, tuple[MasaCtrl, Rows, type[Exception], str]] = {
    "layer": (
        MasaCtrl(schedule=Schedule(start_layer=16)), PAIR, ScheduleError, "start_layer=16.*0 to 15",
    ),
    "layers": (
        MasaCtrl(schedule=Schedule(layers=(3, 40))), PAIR, ScheduleError, "layer=40.*0 to 15",
    ),
    "mask count": (
        MasaCtrl(schedule=ACTIVE, masks=GivenMasks(images=(HALF,))),
        PAIR, MaskError, "1 masks were given for 2 images",
    ),
    "mask missing": (
        MasaCtrl(schedule=ACTIVE, masks=GivenMasks(images=(HALF, None))),
        PAIR, MaskError, "Image 1 reads or is read but has no mask",
    ),
    "mask empty": (
        MasaCtrl(
            schedule=ACTIVE, masks=GivenMasks(images=(HALF, 0 * HALF), on_empty="raise")
        ),
        PAIR, MaskError, "An empty mask was given for image 1",
    ),
    "mask full": (
        MasaCtrl(
            schedule=ACTIVE, masks=GivenMasks(images=(HALF, HALF**0), on_empty="raise")
        ),
        PAIR, MaskError, "A full mask was given for image 1",
    ),
    "word": (
        MasaCtrl(schedule=ACTIVE, masks=words("cat", "dog")),
        PAIR, PromptError, "'dog' is not in the prompt 'a cat running'.*1 'a', 2 'cat'",
    ),
    "word count": (
        MasaCtrl(schedule=ACTIVE, masks=words("cat")),
        PAIR, MaskError, "1 entries of words were given for 2 images",
    ),
    "word without prompt": (
        MasaCtrl(schedule=ACTIVE, masks=WordMasks(words=("cat", "cat"))),
        PAIR, PromptError, "without its prompt",
    ),
    "too early for words": (
        MasaCtrl(schedule=Schedule(start_layer=4), masks=words("cat", "cat")),
        PAIR, MaskError, "Layer 4 runs before any attention map.*layer 4.*from 5 on",
    ),
    "no recording": (
        MasaCtrl(schedule=ACTIVE), Rows.from_cache(targets=2), RowsError, "no recording was given",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_AT_ATTACH)
def test_refused_before_anything_changes(pipe: Any, plain: Tensor, case: str) -> None:
    control, rows, kind, sentence = BAD_AT_ATTACH[case]
    with pytest.raises(kind, match=sentence) as caught, control.attach(pipe, rows):
        tiny_models.run(pipe, PROMPTS)
    assert str(caught.value).endswith(".")
    assert not any("_diffusers_hook" in vars(module) for module in pipe.unet.modules())
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


BAD_IN_THE_RUN: dict[str, tuple[MasaCtrl, Rows, type[Exception], str]] = {
    "step": (
        MasaCtrl(schedule=Schedule(start_step=3, start_layer=10)),
        PAIR, ScheduleError, "start_step=3.*3 steps.*0 to 2",
    ),
    "steps": (
        MasaCtrl(schedule=Schedule(steps=(1, 9), start_layer=10)),
        PAIR, ScheduleError, "step=9.*0 to 2",
    ),
    "timestep": (
        MasaCtrl(schedule=Schedule(max_timestep=0)), PAIR, ScheduleError, "No step of this run",
    ),
    "rows": (
        MasaCtrl(schedule=ACTIVE), Rows.one_source(targets=2), RowsError, "4 rows.*the 3 images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_IN_THE_RUN)
def test_refused_when_the_run_starts(pipe: Any, plain: Tensor, case: str) -> None:
    control, rows, kind, sentence = BAD_IN_THE_RUN[case]
    with pytest.raises(kind, match=sentence) as caught, control.attach(pipe, rows):
        tiny_models.run(pipe, PROMPTS)
    assert str(caught.value).endswith(".")
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_images_per_prompt_that_the_rows_were_not_told_of(
    pipe: Any, plain: Tensor, guidance: float
) -> None:
    """Without guidance 4 rows look like 2 images with it: only the latents tell."""
    with (
        pytest.raises(RowsError, match=r"for the 2 images.*num_images_per_prompt"),
        MasaCtrl(schedule=ACTIVE).attach(pipe, PAIR),
    ):
        tiny_models.run(pipe, PROMPTS, guidance=guidance, num_images_per_prompt=2)
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "swap"}, "form='swap'.*'replace' and 'union'"),
        ({"strength": 1.5}, "strength=1.5.*0 to 1"),
        ({"on_untouched": "ignore"}, "on_untouched='ignore'"),
    ],
)
def test_bad_values(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MasaCtrl(schedule=ACTIVE, **options)


@pytest.mark.parametrize("name", ["prompt-to-prompt", "plug-and-play", "style-aligned", "unified"])
def test_methods_that_need_a_u_net(name: str) -> None:
    sd3 = tiny_mmdit.sd3()
    with (
        pytest.raises(UnsupportedPipeline, match=r"denoises with a transformer.*needs a U-Net"),
        method_named(name).attach(sd3, PAIR, prompts=PROMPTS),
    ):
        pass


def test_checkpoints_of_flux_that_are_given_pictures() -> None:
    flux = tiny_mmdit.flux()
    for pipeline, sentence in (
        (FluxKontextPipeline(**flux.components), r"reference picture's tokens.*Kontext"),
        (SimpleNamespace(transformer=fill(), scheduler=flux.scheduler), "reads 24 channels.*Fill"),
    ):
        with (
            pytest.raises(UnsupportedPipeline, match=sentence),
            MasaCtrl(schedule=Schedule()).attach(pipeline, PAIR),
        ):
            pass


def fill() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=24,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )


def test_other_pipelines_and_things() -> None:
    network = UNet2DModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
    )
    for thing, sentence in [
        (DDPMPipeline(network, DDPMScheduler()), "denoises with a UNet2DModel"),
        (SimpleNamespace(), "has no U-Net"),
    ]:
        with (
            pytest.raises(UnsupportedPipeline, match=sentence),
            MasaCtrl(schedule=ACTIVE).attach(thing, PAIR),
        ):
            pass


def test_fused_projections_until_they_are_unfused() -> None:
    pipe = tiny_models.sd()
    plain = tiny_models.run(pipe, PROMPTS)
    pipe.fuse_qkv_projections(vae=False)
    with (
        pytest.raises(UnsupportedPipeline, match=r"fused.*unfuse_qkv_projections"),
        MasaCtrl(schedule=ACTIVE).attach(pipe, PAIR),
    ):
        pass

    def fused_meanwhile() -> None:
        with MasaCtrl(schedule=ACTIVE).attach(pipe, PAIR):
            pipe.fuse_qkv_projections(vae=False)
            tiny_models.run(pipe, PROMPTS)

    pipe.unfuse_qkv_projections(vae=False)
    with pytest.raises(UnsupportedPipeline, match="fused"):
        fused_meanwhile()
    pipe.unfuse_qkv_projections(vae=False)
    with MasaCtrl(schedule=ACTIVE).attach(pipe, PAIR):
        assert not torch.equal(tiny_models.run(pipe, PROMPTS), plain)


def test_two_controls_on_one_layer(pipe: Any) -> None:
    control = MasaCtrl(schedule=ACTIVE, on_untouched="warn")
    with (
        pytest.raises(ConfigError, match=r"Another control is attached to up_blocks.2"),
        control.attach(pipe, PAIR),
        control.attach(pipe, PAIR),
    ):
        pass


def test_two_controls_on_different_layers(pipe: Any) -> None:
    both = MasaCtrl(schedule=ACTIVE)
    one = MasaCtrl(schedule=Schedule(start_step=1, layers=(10, 11, 12)))
    other = MasaCtrl(schedule=Schedule(start_step=1, layers=(13, 14, 15)))
    with both.attach(pipe, PAIR):
        together = tiny_models.run(pipe, PROMPTS)
    with one.attach(pipe, PAIR), other.attach(pipe, PAIR):
        assert torch.equal(tiny_models.run(pipe, PROMPTS), together)


def test_the_extra_is_named() -> None:
    assert "pip install 'masactrl[app]'" in str(MissingExtra("the web page", "app"))
