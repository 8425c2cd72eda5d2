"""The folders for diffusers' Hub: loaded from the folder, they compute what the control does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_mmdit
import tiny_models
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from diffusers.modular_pipelines import ModularPipelineBlocks

from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError, UnsupportedPipeline
from masactrl.methods import MasaCtrl

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
FOLDER = Path(__file__).parents[2] / "integrations" / "diffusers"
PROMPTS = ["a cat standing", "a cat running"]
TINY = {
    "sd": tiny_models.sd,
    "sdxl": tiny_models.sdxl,
    "sd3": tiny_mmdit.sd3,
    "flux": tiny_mmdit.flux,
}
OPTIONS: dict[str, Any] = {"num_inference_steps": 3, "height": 64, "width": 64}
START = {"start_step": 1, "start_layer": 2}


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers copy custom code below the test's own folder."""
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [one for one in sys.modules if one.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)


def tiny(kind: str) -> Any:
    made = TINY[kind]()
    if kind == "sdxl":  # what Modular Diffusers' blocks ask for
        made.scheduler = EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
    return made


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def words(kind: str) -> dict[str, Any]:
    return {"max_sequence_length": 10} if kind in ("sd3", "flux") else {}


@pytest.mark.parametrize("kind", TINY)
def test_a_custom_pipeline_is_the_control(kind: str, tmp_path: Path) -> None:
    tiny(kind).save_pretrained(tmp_path / "model")
    pipe: Any = DiffusionPipeline.from_pretrained(
        tmp_path / "model",
        custom_pipeline=str(FOLDER / f"custom_pipeline_{kind}"),
        trust_remote_code=True,
    )
    assert type(pipe).__name__ == "MasaCtrlPipeline"
    pipe.set_progress_bar_config(disable=True)
    options = {**OPTIONS, **words(kind), "output_type": "pt"}

    made = pipe(PROMPTS, generator=seeded(), **START, **options).images
    plain = pipe(PROMPTS, generator=seeded(), strength=0.0, **options).images
    stock = super(type(pipe).__mro__[1], pipe).__call__
    noise = torch.randn((1, tiny_models.LATENT_CHANNELS, 8, 8), generator=seeded())
    if kind == "flux":
        noise = pipe._pack_latents(noise, 1, tiny_models.LATENT_CHANNELS, 8, 8)
    latents = noise.repeat(2, *[1] * (noise.ndim - 1))
    assert torch.equal(plain, stock(PROMPTS, latents=latents, **options).images)
    control = MasaCtrl(schedule=Schedule(**START))
    with control.attach(pipe, Rows.one_source(targets=1)):
        expected = stock(PROMPTS, latents=latents, **options).images
    assert torch.equal(made, expected)
    assert torch.equal(made[0], plain[0])
    assert not torch.equal(made[1], plain[1])
    two = pipe(PROMPTS, generator=seeded(), num_images_per_prompt=2, **options).images
    assert len(two) == 4
    with pytest.raises(ConfigError, match="nothing to control"):
        pipe("a cat", start_step=1, **options)
    with pytest.raises(ConfigError, match="latents of 2 pictures"):
        pipe(PROMPTS, latents=latents, **options)
    # Nothing is left behind: a single prompt is a stock run.
    alone = pipe(PROMPTS[0], latents=noise, **options).images
    assert torch.equal(alone, stock(PROMPTS[0], latents=noise, **options).images)


def modular(kind: str, tmp_path: Path) -> Any:
    """The folder's blocks with the parts of the tiny pipeline."""
    blocks = ModularPipelineBlocks.from_pretrained(
        str(FOLDER / f"modular_{kind}"), trust_remote_code=True
    )
    pipe: Any = blocks.init_pipeline()
    parts = tiny(kind).components
    known = {name for name in pipe.blocks.component_names if name in parts}
    pipe.update_components(**{name: parts[name] for name in known})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, kind: str, **options: Any) -> torch.Tensor:
    # SD3's own blocks guide only where a negative prompt is given.
    extra = {"negative_prompt": ["", ""]} if kind == "sd3" else {}
    made: torch.Tensor = pipe(
        prompt=PROMPTS,
        generator=seeded(),
        output_type="pt",
        output="images",
        **{**OPTIONS, **words(kind), **extra, **options},
    )
    return made


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_modular_blocks_are_the_control(kind: str, tmp_path: Path) -> None:
    pipe = modular(kind, tmp_path)
    made = drawn(pipe, kind, **START)
    plain = drawn(pipe, kind, strength=0.0)
    assert torch.equal(made[0], plain[0])
    assert not torch.equal(made[1], plain[1])
    assert torch.equal(drawn(pipe, kind, strength=0.0), plain)
    # The same as the whole pipeline of the family under the control.
    guided = {"sdxl": 7.5, "sd3": 7.0, "flux": 3.5}[kind]
    whole = tiny(kind)
    # The blocks draw noise for all prompts and keep the first's.
    noise = torch.randn((2, tiny_models.LATENT_CHANNELS, 8, 8), generator=seeded())[:1]
    if kind == "flux":
        noise = whole._pack_latents(noise, 1, tiny_models.LATENT_CHANNELS, 8, 8)
    latents = noise.repeat(2, *[1] * (noise.ndim - 1))
    control = MasaCtrl(schedule=Schedule(**START))
    with control.attach(whole, Rows.one_source(targets=1)):
        expected = whole(
            PROMPTS,
            latents=latents,
            guidance_scale=guided,
            output_type="pt",
            **OPTIONS,
            **words(kind),
        ).images
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_a_photo_is_itself_again(kind: str, tmp_path: Path) -> None:
    pipe = modular(kind, tmp_path)
    latents = 0.5 * torch.randn((1, tiny_models.LATENT_CHANNELS, 8, 8), generator=seeded())
    made = drawn(pipe, kind, image_latents=latents, **START)
    vae = pipe.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    photo = vae.decode(latents / vae.config.scaling_factor + shift).sample / 2 + 0.5
    torch.testing.assert_close(made[:1], photo.clamp(0, 1), atol=1e-4, rtol=0)
    assert made[1].isfinite().all()
    with pytest.raises(ConfigError, match="photo's latents are"):
        drawn(pipe, kind, image_latents=latents[..., :6])
    if kind == "sdxl":
        pipe.scheduler.register_to_config(prediction_type="v_prediction")
        with pytest.raises(UnsupportedPipeline, match="predicts v_prediction"):
            drawn(pipe, kind, image_latents=latents)
