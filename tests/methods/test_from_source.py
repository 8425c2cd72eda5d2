"""Blended Latent Diffusion and Imagic: written out, given back to the bit, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from masactrl.attention import Rows
from masactrl.errors import ConfigError, ControlNotApplied, MaskError, PromptError
from masactrl.methods import BlendedLatent, Imagic, Method
from masactrl.methods.blended_latent import difference_mask
from masactrl.methods.starts import beginning, of_source
from masactrl.models.denoiser import Denoiser

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PROMPTS = ["a cat sitting on snow", "a dog running"]
SIDE, STEPS, SCALE = 8, 4, 7.5
QUICK = Imagic(text_steps=3, tuning_steps=3, text_rate=1e-2, tuning_rate=1e-3)


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_models.sd()


def drawn(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(
        (count, 4, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )


def targets(pipe: Any, method: Method, prompts: list[str], **more: Any) -> torch.Tensor:
    """The latents (n, c, h, w) of the targets of random sources."""
    n = len(prompts)
    given: dict[str, Any] = {"z_0": drawn(1)[:n], "noise": drawn(2)[:n], "seed": 3} | more
    with beginning(pipe, method, prompts=prompts, steps=STEPS, **given) as z_t:
        made: torch.Tensor = pipe(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            latents=z_t,
            output_type="latent",
        ).images
    return made


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in pipe.unet.state_dict().items()}


@torch.no_grad()
def literal_blend(pipe: Any, mask: torch.Tensor, first: int) -> torch.Tensor:
    """The equations at the head of `blended_latent`, step by step."""
    z_0, noise = drawn(1), drawn(2)
    generator = torch.Generator().manual_seed(3)
    pipe.scheduler.set_timesteps(STEPS)
    times = [int(t) for t in pipe.scheduler.timesteps]
    alphas = pipe.scheduler.alphas_cumprod
    text = pipe.encode_prompt(PROMPTS, "cpu", 1, True, [""] * 2)
    hidden = torch.cat([text[1], text[0]])
    a = alphas[times[first]]
    z = a.sqrt() * z_0 + (1 - a).sqrt() * noise
    for step in range(first, STEPS):
        both = pipe.unet(torch.cat([z, z]), times[step], encoder_hidden_states=hidden).sample
        without, said = both.chunk(2)
        z = pipe.scheduler.step(without + SCALE * (said - without), times[step], z).prev_sample
        level = alphas[times[step + 1]] if step + 1 < STEPS else torch.tensor(1.0)
        eps = torch.randn(z.shape, generator=generator)
        z = mask * z + (1 - mask) * (level.sqrt() * z_0 + (1 - level).sqrt() * eps)
    return z


def test_blended_latent_diffusion_written_out(pipe: Any) -> None:
    mask = (torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9)) > 0.5).float()

    class Masked(BlendedLatent):
        """The method with the masks of a request."""

        def of_source(self, z_0: torch.Tensor, **more: Any) -> Any:
            return super().of_source(z_0, **more | {"mask": mask})

    made = targets(pipe, Masked(strength=0.75), PROMPTS)
    literal = literal_blend(pipe, mask, 1)
    assert (made - literal).abs().max() < 1e-4 * literal.abs().max()
    outside = (mask == 0).expand_as(made)
    assert torch.equal(made[outside], drawn(1)[outside])


def test_a_mask_is_found_where_the_prompt_makes_a_difference(pipe: Any) -> None:
    z_0 = drawn(1)
    options: dict[str, Any] = {"threshold": 0.35, "seed": 3}
    mask = difference_mask(Denoiser(pipe), pipe.scheduler, z_0, PROMPTS, **options)
    assert mask.shape == (2, 1, SIDE, SIDE)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    again = difference_mask(Denoiser(pipe), pipe.scheduler, z_0, PROMPTS, **options)
    assert torch.equal(mask, again)
    made = targets(pipe, BlendedLatent(threshold=0.35, grow=0.0), PROMPTS)
    same = (made == z_0).all(1, keepdim=True)
    assert torch.equal(same.float(), 1 - mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [tiny_models.sd, tiny_models.sdxl])
def test_imagic_leaves_the_model_as_it_was(make: Any, dtype: torch.dtype) -> None:
    pipe = make().to(dtype)
    pipe.unet.requires_grad_(False)
    before = weights(pipe)
    noise = {"z_0": drawn(1).to(dtype), "noise": drawn(2).to(dtype)}
    first = pipe(PROMPTS, num_inference_steps=2, latents=noise["noise"], output_type="pt").images
    made = targets(pipe, QUICK, PROMPTS, **noise)
    assert bool(made.isfinite().all())
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        of_source(QUICK, noise["z_0"]).attach(pipe, Rows.plain(images=2), prompts=PROMPTS),
    ):
        raise RuntimeError("on purpose")
    after = weights(pipe)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(one.requires_grad or one.grad is not None for one in pipe.unet.parameters())
    assert not any("_diffusers_hook" in vars(one) for one in pipe.unet.modules())
    second = pipe(PROMPTS, num_inference_steps=2, latents=noise["noise"], output_type="pt").images
    assert torch.equal(first, second)


def test_imagic_written_out() -> None:
    """Stages A to C on a model of its own, with the same draws."""
    pipe, prompt, z_0 = tiny_models.sd(), PROMPTS[0], drawn(1)[:1]
    made = targets(pipe, QUICK, [prompt])
    generator = torch.Generator().manual_seed(3)
    alphas = pipe.scheduler.alphas_cumprod
    wanted = pipe.encode_prompt([prompt], "cpu", 1, False)[0].detach()
    nothing = pipe.encode_prompt([""], "cpu", 1, False)[0].detach()

    def loss(e: torch.Tensor) -> torch.Tensor:
        t = int(torch.randint(1000, (), generator=generator))
        eps = torch.randn(z_0.shape, generator=generator)
        z_t = alphas[t].sqrt() * z_0 + (1 - alphas[t]).sqrt() * eps
        return (pipe.unet(z_t, t, encoder_hidden_states=e).sample - eps).square().mean()

    e = wanted.clone().requires_grad_(True)
    for values, rate, steps in (
        ([e], QUICK.text_rate, QUICK.text_steps),
        (list(pipe.unet.parameters()), QUICK.tuning_rate, QUICK.tuning_steps),
    ):
        adam = torch.optim.Adam(values, lr=rate)
        for _ in range(steps):
            adam.zero_grad()
            with sdpa_kernel(SDPBackend.MATH):
                loss(e if values[0] is e else e.detach()).backward()
            adam.step()
    mixed = QUICK.interpolation * wanted + (1 - QUICK.interpolation) * e.detach()
    z = drawn(2)[:1]
    pipe.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            both = pipe.unet(
                torch.cat([z, z]), t, encoder_hidden_states=torch.cat([nothing, mixed])
            ).sample
            without, said = both.chunk(2)
            z = pipe.scheduler.step(without + SCALE * (said - without), t, z).prev_sample
    # Adam's first steps are as long for a small gradient as for a large one: rounding counts.
    assert (made - z).abs().max() < 1e-2 * z.abs().max()
    other = targets(tiny_models.sd(), replace(QUICK, tuning_steps=1, text_steps=1), [prompt])
    assert (other - z).abs().max() > 5e-2 * z.abs().max()


def test_a_batch_of_imagic_is_its_images_one_by_one(pipe: Any) -> None:
    together = targets(pipe, QUICK, PROMPTS)
    for k, prompt in enumerate(PROMPTS):
        given = {"z_0": drawn(1)[k : k + 1], "noise": drawn(2)[k : k + 1]}
        alone = targets(pipe, QUICK, [prompt], **given)
        assert torch.allclose(together[k : k + 1], alone, atol=1e-3)
    plain = targets(pipe, QUICK, PROMPTS, seed=4)
    assert (plain - together).abs().max() > 1e-3  # the noise of the fitting is another


@pytest.mark.parametrize("method", [BlendedLatent(), QUICK])
def test_what_cannot_be_is_refused(pipe: Any, method: Any) -> None:
    with pytest.raises(ConfigError, match=r"of_source\(z_0\)"):
        method.attach(pipe, Rows.plain(images=1), prompts=PROMPTS[:1])
    ready = method.of_source(drawn(1))
    for prompts in (None, PROMPTS[:1]):
        with (
            pytest.raises(PromptError, match="one of each per image"),
            ready.attach(pipe, Rows.plain(images=2), prompts=prompts),
        ):
            pass
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[:, :, :4] = 1
    ready = method.of_source(drawn(1), mask=mask if method.name == "blended-latent" else None)
    with (
        pytest.raises(ControlNotApplied),
        ready.attach(pipe, Rows.plain(images=2), prompts=PROMPTS),
    ):
        pass


def test_masks_that_are_none_are_refused(pipe: Any) -> None:
    with pytest.raises(ConfigError, match="imagic takes no masks"):
        QUICK.of_source(drawn(1), mask=torch.ones(2, 1, SIDE, SIDE))
    with pytest.raises(MaskError, match="1 channel per image"):
        BlendedLatent().of_source(drawn(1), mask=torch.ones(SIDE, SIDE))
    for mask, kind in ((torch.ones, "everything"), (torch.zeros, "nothing")):
        ready = BlendedLatent().of_source(drawn(1), mask=mask(2, 1, SIDE, SIDE))
        with (
            pytest.raises(MaskError, match=f"leaves {kind}"),
            ready.attach(pipe, Rows.plain(images=2), prompts=PROMPTS),
        ):
            pass


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (BlendedLatent, {"strength": 0.0}, "strength=0.0"),
        (BlendedLatent, {"threshold": 1.0}, "threshold=1.0"),
        (BlendedLatent, {"grow": 0.7}, "grow=0.7"),
        (Imagic, {"interpolation": 1.5}, "interpolation=1.5"),
        (Imagic, {"text_steps": 0}, "text_steps=0"),
        (Imagic, {"tuning_rate": 0.0}, "tuning_rate=0.0"),
    ],
)
def test_values_out_of_range(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
