from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from PIL import Image

from masactrl.attention import GivenMasks, WordMasks, check_prompt, find_layers, token_numbers
from masactrl.attention.masking import _capture_layers
from masactrl.attention.masks import binary, key_bias, normalised, resized
from masactrl.errors import ControlWarning, MaskError, PromptError

TOKENIZER = tiny_models.tokenizer()
HALF = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    "mask",
    [
        HALF,
        HALF.bool(),
        HALF.to(torch.uint8),
        (255 * HALF).to(torch.uint8),
        HALF.numpy(),
        HALF.flip(1).numpy()[:, ::-1],
        HALF.numpy().astype(bool),
        Image.fromarray((255 * HALF).numpy().astype(np.uint8)),
        Image.fromarray((255 * HALF).numpy().astype(np.uint8)).convert("RGB"),
        Image.fromarray(HALF.numpy().astype(bool)),
    ],
)
def test_masks_of_every_kind(mask: object) -> None:
    (taken,) = GivenMasks(images=(mask,)).images  # type: ignore[arg-type]
    assert isinstance(taken, torch.Tensor)
    assert torch.equal(taken, HALF)


def test_a_given_mask_is_a_copy() -> None:
    original = HALF.clone()
    (taken,) = GivenMasks(images=(original,)).images
    original.zero_()
    assert isinstance(taken, torch.Tensor)
    assert torch.equal(taken, HALF)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GivenMasks(images=(torch.full((2, 2), torch.nan),)), "image 0 holds NaN"),
        (lambda: GivenMasks(images=(HALF, HALF[None])), r"image 1 has shape \(1, 2, 2\)"),
        (lambda: GivenMasks(images=(torch.zeros(0, 3),)), "non-empty"),
        (lambda: GivenMasks(images=([[1.0, 0.0]],)), "image 0 is a list.*pictures, arrays"),
        (lambda: GivenMasks(images=(3 * HALF,)), "values from 0 to 3"),
        (lambda: GivenMasks(images=(HALF,), sources=(-HALF,)), "recorded source 0.*from -1"),
        (lambda: GivenMasks(images=(HALF,), threshold=0.0), "threshold=0.0"),
        (lambda: GivenMasks(images=(HALF,), on_empty="ignore"), "on_empty='ignore'"),
        (lambda: WordMasks(words=("cat",), threshold=1.5), "threshold=1.5"),
        (lambda: WordMasks(words=("cat",), smoothing=1.0), "smoothing=1.0"),
        (lambda: WordMasks(words=("cat",), capture_scale=0), "capture_scale=0"),
        (lambda: WordMasks(words="cat"), "one entry per image"),
        (lambda: WordMasks(words=((),)), "no words"),
    ],
)
def test_bad_masks_are_sentences(make: object, words: str) -> None:
    with pytest.raises(MaskError, match=words) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value).endswith(".")


def test_masks_repeat_with_their_prompts() -> None:
    given = GivenMasks(images=(HALF, 1 - HALF), sources=(HALF,)).repeated(2)
    assert [float(m[0, 0]) for m in given.images] == [1, 1, 0, 0]  # type: ignore[index]
    assert len(given.sources) == 1
    words = WordMasks(words=("cat", (1, 2)), prompts=("a cat", "")).repeated(2)
    assert words.words == (("cat",), ("cat",), (1, 2), (1, 2))
    assert words.prompts == ("a cat", "a cat", "", "")


def test_normalised_spans_zero_to_one_and_stays_finite() -> None:
    maps = torch.stack([torch.arange(6.0).reshape(2, 3) - 9, torch.full((2, 3), 0.7)])
    out = normalised(maps)
    assert torch.allclose(out[0], torch.arange(6.0).reshape(2, 3) / 5)
    assert torch.equal(out[1], torch.zeros(2, 3))


def test_resized_takes_the_nearest() -> None:
    out = resized(HALF[None], 4, 6)
    assert torch.equal(out[0], torch.tensor([[1.0, 1, 1, 0, 0, 0]]).expand(4, 6))


def test_the_threshold_is_inclusive() -> None:
    assert binary(torch.tensor([0.09, 0.1, 0.11]), 0.1).tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forbidden_keys_get_a_finite_number(dtype: torch.dtype) -> None:
    bias = key_bias(torch.tensor([[1.0, 0.0]]), dtype)
    assert bias.shape == (1, 1, 2)
    assert bias.dtype == dtype
    whole = torch.finfo(dtype).min
    # In float16 a score of -16 on top of the whole range would be -inf, and a row of them NaN.
    assert bias.flatten().tolist() == [0.0, whole / 2 if dtype == torch.float16 else whole]
    assert bool((bias - 1000).isfinite().all())


def test_a_row_without_any_key_is_finite_in_half_precision() -> None:
    attention = Attention(8, heads=1, dim_head=8, processor=AttnProcessor()).half()
    torch.nn.init.eye_(attention.to_q.weight)
    torch.nn.init.eye_(attention.to_k.weight)
    queries = torch.full((1, 3, 8), 5.0).half()
    bias = key_bias(torch.zeros(1, 4), queries.dtype)
    with torch.no_grad():
        out = attention(
            queries, encoder_hidden_states=-queries[:, :1].expand(-1, 4, -1), attention_mask=bias
        )
    assert bool(out.isfinite().all())


def test_the_capture_level() -> None:
    sd, sdxl = find_layers(tiny_models.unet()), find_layers(tiny_models.unet(xl=True))
    quarter = WordMasks(words=("cat",))
    assert [s.index for s in _capture_layers(quarter, sd)] == [4, 5, 7, 8, 9]
    assert [s.index for s in _capture_layers(quarter, sdxl)] == list(range(4, 64))
    assert {s.scale for s in _capture_layers(WordMasks(words=("cat",), capture_scale=16), sd)} == {
        8
    }
    no_quarter = [layer for layer in sd if layer.scale != 4]
    assert {s.scale for s in _capture_layers(quarter, no_quarter)} == {2}


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("cat",), (2,)),
        (("a",), (1, 4)),
        (("corgi",), (5, 6)),
        (("red corgi",), ()),
        (("a corgi", "on snow"), (4, 5, 6, 7, 8)),
        ((3, "snow"), (3, 8)),
        (("CAT",), (2,)),
    ],
)
def test_words_to_tokens(words: tuple[str | int, ...], numbers: tuple[int, ...]) -> None:
    prompt = "a cat and a corgi on snow"
    if not numbers:
        with pytest.raises(PromptError, match=r"'red corgi' is not in the prompt.*2 'cat'"):
            token_numbers(TOKENIZER, prompt, words)
        return
    assert token_numbers(TOKENIZER, prompt, words) == numbers


def test_bad_words_are_sentences() -> None:
    with pytest.raises(PromptError, match="0 to 76"):
        token_numbers(TOKENIZER, "a cat", (77,))
    with pytest.raises(PromptError, match="without its prompt"):
        token_numbers(TOKENIZER, None, ("cat",))
    with pytest.raises(PromptError, match="Its tokens are: none"):
        token_numbers(TOKENIZER, "", ("cat",))
    with pytest.raises(PromptError, match="is not in the prompt"):
        token_numbers(TOKENIZER, "a cat", ("",))


def test_a_prompt_that_is_too_long_shows_what_is_lost() -> None:
    prompt = " ".join(["big"] * 75 + ["red", "dog"])
    with pytest.warns(ControlWarning, match="79 tokens.*takes 77.*'red dog'"):
        ids = check_prompt(TOKENIZER, prompt)
    assert len(ids) == 77
    pipeline_ids = TOKENIZER(prompt, truncation=True, max_length=77).input_ids
    assert list(ids) == pipeline_ids
    with (
        pytest.warns(ControlWarning, match="cut off"),
        pytest.raises(PromptError, match="'dog' is not in the prompt"),
    ):
        token_numbers(TOKENIZER, prompt, ("dog",))
    with pytest.warns(ControlWarning) as caught:
        token_numbers(TOKENIZER, f"a cat {prompt}", ("cat", "big"))
    assert len(caught) == 1  # once a prompt, not once a word
