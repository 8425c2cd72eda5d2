"""Masks from words: what they are, how they are smoothed, and what can be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.attention.masking import _token_table
from masactrl.errors import ControlWarning, MaskError, PromptError
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

    from masactrl.attention import RunReport

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
SIZE = (16, 24)
CATS = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4)
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_models.sd()


def report(
    pipe: StableDiffusionPipeline,
    masks: GivenMasks | WordMasks,
    *,
    strength: float = 1.0,
    layer: int = 10,
) -> RunReport:
    control = MasaCtrl(
        schedule=Schedule(start_step=1, start_layer=layer), masks=masks, strength=strength
    )
    with control.attach(pipe, PAIR) as attached:
        tiny_models.run(pipe, PROMPTS, size=SIZE)
    return attached.report


def test_the_masks_used_can_be_looked_at(pipe: StableDiffusionPipeline) -> None:
    seen = report(pipe, CATS)
    assert set(seen.masks) == set(seen.maps) == seen.touched
    assert seen.maps[1, 10].shape == (2, 4, 6)  # a quarter of the latent's sides
    assert seen.masks[1, 10].shape == (2, 8, 12)
    assert seen.masks[1, 15].shape == (2, 16, 24)
    assert seen.masks[1, 15].dtype == torch.bool
    soft = seen.maps[2, 12]
    assert torch.equal(soft.amin(dim=(1, 2)), torch.zeros(2))
    assert torch.equal(soft.amax(dim=(1, 2)), torch.ones(2))
    larger = torch.nn.functional.interpolate(soft[:, None], (8, 12), mode="nearest")[:, 0]
    assert torch.equal(seen.masks[2, 12], larger >= 0.4)


def test_given_masks_can_be_looked_at(pipe: StableDiffusionPipeline) -> None:
    left = torch.zeros(2, 2)
    left[:, 0] = 1
    seen = report(pipe, GivenMasks(images=(left, 1 - left)))
    assert not seen.maps
    assert bool(seen.masks[1, 15][0, :, :12].all())
    assert not bool(seen.masks[1, 15][0, :, 12:].any())
    assert torch.equal(seen.masks[1, 15][1], ~seen.masks[1, 15][0])


def test_other_words_give_other_masks(pipe: StableDiffusionPipeline) -> None:
    other = WordMasks(words=("sitting", "running"), prompts=tuple(PROMPTS), threshold=0.4)
    both = WordMasks(
        words=(("cat", "sitting"), ("cat", "running")), prompts=tuple(PROMPTS), threshold=0.4
    )
    maps = [report(pipe, masks).maps[1, 10] for masks in (CATS, other, both)]
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_a_running_mean_over_the_layers_so_far(pipe: StableDiffusionPipeline) -> None:
    seen = report(pipe, CATS, layer=5)
    assert not torch.equal(seen.maps[1, 5], seen.maps[1, 8])  # layers 4, 5, 7 against 4
    assert torch.equal(seen.maps[1, 10], seen.maps[1, 15])  # all five maps


def test_smoothing_mixes_in_the_step_before(pipe: StableDiffusionPipeline) -> None:
    # So weak a control that both runs see the same attention.
    raw = report(pipe, CATS, strength=1e-7).maps
    half = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4, smoothing=0.5)
    smooth = report(pipe, half, strength=1e-7).maps
    assert torch.allclose(smooth[1, 12], raw[1, 12], atol=1e-4)
    assert torch.allclose(smooth[2, 12], (raw[1, 12] + raw[2, 12]) / 2, atol=1e-4)
    assert not torch.allclose(smooth[2, 12], raw[2, 12], atol=1e-3)


def test_smoothing_starts_anew_with_every_run(pipe: StableDiffusionPipeline) -> None:
    half = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4, smoothing=0.5)
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10), masks=half)
    with control.attach(pipe, PAIR) as attached:
        for _ in range(2):
            tiny_models.run(pipe, PROMPTS, size=SIZE)
    first, second = attached.runs
    assert torch.equal(first.maps[1, 10], second.maps[1, 10])


def test_both_guidance_halves_use_the_prompt_s_masks(pipe: StableDiffusionPipeline) -> None:
    wrong = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4, branch=0)
    # The unconditional half reads an empty prompt: other maps.
    assert not torch.equal(report(pipe, wrong).maps[1, 10], report(pipe, CATS).maps[1, 10])


def test_the_capture_level_can_be_chosen(pipe: StableDiffusionPipeline) -> None:
    fine = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), capture_scale=2)
    assert report(pipe, fine).maps[1, 12].shape == (2, 8, 12)
    with pytest.raises(MaskError, match="first map comes from layer 6"):
        report(pipe, WordMasks(words=((1,), (1,)), capture_scale=8), layer=6)


@pytest.mark.parametrize("kind", ["words", "given"])
def test_several_images_per_prompt(pipe: StableDiffusionPipeline, kind: str) -> None:
    left = torch.tensor([[1.0, 0.0, 0.0]])
    masks = CATS if kind == "words" else GivenMasks(images=(left, 1 - left))
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10), masks=masks.repeated(2))
    rows = Rows.one_source(targets=1, images_per_prompt=2)
    starts = [tiny_models.noise(1, *SIZE, seed=seed) for seed in (0, 1)]

    def together() -> Tensor:
        with control.attach(pipe, rows):
            return tiny_models.run(
                pipe, PROMPTS, size=SIZE, num_images_per_prompt=2, latents=torch.cat(starts * 2)
            )

    both = together()
    alone = MasaCtrl(schedule=control.schedule, masks=masks)
    for copy, start in enumerate(starts):
        with alone.attach(pipe, PAIR):
            one = tiny_models.run(
                pipe, PROMPTS, size=SIZE, latents=start.expand(2, -1, -1, -1).clone()
            )
        assert torch.allclose(both[copy::2], one, atol=1e-3)


def test_a_flat_map_is_reported_not_nan(pipe: StableDiffusionPipeline) -> None:
    """Every token chosen: the probabilities sum to 1 everywhere."""
    every = WordMasks(words=(tuple(range(77)), ("cat",)), prompts=tuple(PROMPTS))
    control = MasaCtrl(schedule=Schedule(start_step=2, layers=(12,)), masks=every)
    # Rounding leaves a map of noise, or of nothing at all; neither may become NaN.
    with control.attach(pipe, PAIR):
        assert bool(tiny_models.run(pipe, PROMPTS, size=SIZE).isfinite().all())


def test_an_empty_mask_of_a_word_is_reported(pipe: StableDiffusionPipeline) -> None:
    """On 4x4 latents the maps have one cell, so they are flat and select nothing."""

    def run(on_empty: Any) -> RunReport:
        masks = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), on_empty=on_empty)
        control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10), masks=masks)
        with control.attach(pipe, PAIR) as attached:
            tiny_models.run(pipe, PROMPTS, size=(4, 4))
        return attached.report

    with pytest.warns(ControlWarning) as caught:
        seen = run("warn")
    texts = [str(entry.message) for entry in caught]
    assert len(texts) == 2  # once for each image
    assert all("An empty mask was used at step 1, layer 10 for" in text for text in texts)
    assert not seen.masks[1, 10].any()
    with pytest.raises(MaskError, match="An empty mask was used at step 1, layer 10 for image 0"):
        run("raise")
    plain = tiny_models.run(pipe, PROMPTS, size=(4, 4))
    assert torch.equal(tiny_models.run(pipe, PROMPTS, size=(4, 4)), plain)


def test_a_prompt_longer_than_the_encoder_takes(pipe: StableDiffusionPipeline) -> None:
    long = "a cat running " + "big " * 75 + "red dog"
    prompts = [PROMPTS[0], long]
    masks = WordMasks(words=("cat", ("cat", "running")), prompts=tuple(prompts), threshold=0.4)
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10), masks=masks)
    with (
        pytest.warns(ControlWarning, match=r"82 tokens.*takes 77.*'big big big red dog'") as caught,
        control.attach(pipe, PAIR),
    ):
        edited = tiny_models.run(pipe, prompts)
    assert sum("cut off" in str(entry.message) for entry in caught) == 1
    assert (edited - tiny_models.run(pipe, prompts))[1].abs().max() > 0.1
    lost = WordMasks(words=("cat", "dog"), prompts=tuple(prompts))
    with (
        pytest.raises(PromptError, match="'dog' is not in the prompt"),
        MasaCtrl(schedule=control.schedule, masks=lost).attach(pipe, PAIR),
    ):
        pass


def test_words_need_a_tokenizer(pipe: StableDiffusionPipeline) -> None:
    bare = tiny_models.sd()
    bare.tokenizer = None
    with pytest.raises(MaskError, match=r"without a tokenizer.*GivenMasks"):
        report(bare, CATS)


def test_a_learned_word_of_several_vectors_shifts_the_words_after_it() -> None:
    """Textual inversion writes <toy> as <toy> <toy>_1 <toy>_2; so do our positions."""
    pipe = tiny_models.sd()
    vectors = torch.randn(3, tiny_models.TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion(vectors, token="<toy>")
    prompts = ("a <toy> cat", "a <toy> dog")

    def table(words: tuple[str, str]) -> list[list[int]]:
        masks = WordMasks(words=words, prompts=prompts)
        found = _token_table(masks, pipe, PAIR, recording=False)
        return [row.nonzero().flatten().tolist() for row in found]

    assert table(("cat", "dog")) == [[5], [5]]
    assert table(("<toy>", "<toy> dog")) == [[2, 3, 4], [2, 3, 4, 5]]


def test_a_useless_mask_warns_once_per_image_or_raises(pipe: StableDiffusionPipeline) -> None:
    def masks(on_empty: str) -> GivenMasks:
        return GivenMasks(
            images=(torch.eye(2), torch.ones(2, 2)),
            on_empty=on_empty,  # type: ignore[arg-type]
        )

    with pytest.warns(ControlWarning) as caught:
        seen = report(pipe, masks("warn"))
    texts = [str(entry.message) for entry in caught]
    assert len(texts) == 2  # when given, and when first used
    assert all("A full mask" in text and "image 1" in text for text in texts)
    assert seen.steps == (1, 2)
    with pytest.raises(MaskError, match="A full mask was given for image 1"):
        report(pipe, masks("raise"))
