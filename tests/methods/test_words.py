"""Word alignment of Prompt-to-Prompt on written-out cases; token 0 is the begin token."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from masactrl.attention import Rows
from masactrl.errors import PromptError, ScheduleError
from masactrl.methods.local_blend import Blender, LocalBlend
from masactrl.methods.steps import window_steps
from masactrl.methods.word_edit import word_windows
from masactrl.methods.words import align, refinement, replacement, word_tokens

TOKENS = tiny_models.tokenizer()


@pytest.mark.parametrize(
    ("source", "target", "aligned"),
    [
        ("a cat", "a cat", (0, 1, 2, 3)),
        ("a cat", "a big cat", (0, 1, -1, 2, 3)),
        ("a big cat", "a cat", (0, 1, 3, 4)),
        ("a cat on snow", "a cat on red snow", (0, 1, 2, 3, -1, 4, 5)),
        ("a cat on snow", "a dog on snow", (0, 1, -1, 3, 4, 5)),
        ("a corgi", "a cat", (0, 1, -1, 4)),
        ("a cat", "a corgi", (0, 1, -1, -1, 3)),
        ("a cat", "", (0, 3)),
        ("", "a cat", (0, -1, -1, 1)),
        ("cat dog", "dog cat", (0, 2, -1, 3)),
    ],
)
def test_refinement(source: str, target: str, aligned: tuple[int, ...]) -> None:
    A, alpha = refinement(TOKENS, source, target, published=True)
    assert align(TOKENS(source).input_ids, TOKENS(target).input_ids) == aligned
    for word, read in enumerate(aligned):
        assert alpha[word] == (read >= 0)
        assert read < 0 or A[word] == read
    behind = torch.arange(len(aligned), 77)
    assert torch.equal(A[len(aligned) :], behind)
    assert bool((alpha[len(aligned) :] == 1).all())


def entries(mapping: torch.Tensor, words: int) -> dict[tuple[int, int], float]:
    return {
        (int(i), int(j)): float(mapping[i, j])
        for i, j in mapping.nonzero()
        if i < words or j < words
    }


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a cat", "a dog", {(0, 0): 1, (1, 1): 1, (2, 2): 1, (3, 3): 1, (4, 4): 1}),
        # One token becomes two: the word's attention is shared, and behind it the identity holds on
        # the target's index, so that "on" at 4 reads the source's token 4.
        (
            "a cat on",
            "a corgi on",
            {(0, 0): 1, (1, 1): 1, (2, 2): 0.5, (2, 3): 0.5, (4, 4): 1},
        ),
        # Two tokens become one.
        (
            "a corgi on",
            "a cat on",
            {(0, 0): 1, (1, 1): 1, (2, 2): 1, (3, 2): 1, (3, 3): 1, (4, 4): 1},
        ),
        # A word between two replaced ones keeps its place in either prompt.
        (
            "cat on snow",
            "corgi on red",
            {(0, 0): 1, (1, 1): 0.5, (1, 2): 0.5, (2, 3): 1, (3, 4): 1},
        ),
        # Two tokens for two tokens go one to one.
        ("a corgi", "a zz", {(0, 0): 1, (1, 1): 1, (2, 2): 1, (3, 3): 1, (4, 4): 1}),
    ],
)
def test_replacement(source: str, target: str, expected: dict[tuple[int, int], float]) -> None:
    assert entries(replacement(TOKENS, source, target, published=True), 5) == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a cat on snow", "a corgi on snow"),  # longer
        ("a corgi on snow", "a cat on snow"),  # shorter
        ("cat on a cat", "corgi on a dog"),  # twice, one of them longer
        ("a corgi and corgi in snow", "a cat and cat in snow"),
        ("cat, on snow.", "corgi, on snow."),
        ("a cat on snow", "a dog on snow"),
    ],
)
def test_unchanged_words_take_the_attention_of_themselves(source: str, target: str) -> None:
    """Behind a word that became longer or shorter, too, and padding that of padding."""
    x, y = (TOKENS(text).input_ids for text in (source, target))
    mapping = replacement(TOKENS, source, target)
    words = zip(source.split(), target.split(), strict=True)
    here, there = 1, 1
    for one, other in words:
        lengths = [len(TOKENS(word, add_special_tokens=False).input_ids) for word in (one, other)]
        if one == other:
            for k in range(lengths[0]):
                assert mapping[:, there + k].nonzero().flatten().tolist() == [here + k]
        here, there = here + lengths[0], there + lengths[1]
    assert torch.equal(mapping.sum(0), torch.ones(77)) or len(x) != len(y)
    A, alpha = refinement(TOKENS, source, target)
    for behind in range(len(y), 77):
        (read,) = mapping[:, behind].nonzero().flatten().tolist()
        assert read >= len(x)
        assert A[behind] >= len(x)
        assert alpha[behind] == 1


def test_replacement_needs_as_many_words() -> None:
    with pytest.raises(PromptError, match="'a cat' has 2 and 'a big cat' has 3"):
        replacement(TOKENS, "a cat", "a big cat")


@pytest.mark.parametrize(
    ("prompt", "word", "numbers"),
    [
        ("a cat on snow", "cat", (2,)),
        ("a corgi on snow", "corgi", (2, 3)),
        ("a corgi on snow", "snow", (5,)),
        ("a cat and a cat", "cat", (2, 5)),
        ("a big cat", "big cat", (2, 3)),
        ("a cat, sitting", "cat", (2, 3)),
        ("a cat", "dog", ()),
        ("a cat", "", ()),
    ],
)
def test_tokens_of_a_word(prompt: str, word: str, numbers: tuple[int, ...]) -> None:
    assert word_tokens(TOKENS, prompt, word) == numbers


def test_windows_count_steps_plus_one() -> None:
    a = word_windows(50, 77, 0.8, [((3,), 0.0, 0.2), ((4, 5), 0.5, 1.0)])
    assert a.shape == (51, 77)
    assert int(a[:, 1].sum()) == 40  # int(0.8 * 51)
    assert a[:, 3].nonzero().flatten().tolist() == list(range(10))
    assert a[:, 4].nonzero().flatten().tolist() == list(range(25, 51))


def test_all_words_may_have_a_window_with_a_begin() -> None:
    """alpha of the published get_time_words_attention_alpha with bounds (0.2, 0.9)."""
    alpha = torch.zeros(51, 77)
    start, end = int(0.2 * 51), int(0.9 * 51)
    alpha[:start] = 0
    alpha[start:end] = 1
    alpha[end:] = 0
    assert torch.equal(word_windows(50, 77, (0.2, 0.9), []), alpha)
    assert window_steps((0.25, 0.75), 50) == frozenset(range(12, 37))
    assert window_steps((0.5, 0.5), 50) == frozenset()
    with pytest.raises(ScheduleError, match="covers no step"):
        window_steps((0.5, 0.51), 10)


def authors_mask(maps: torch.Tensor, size: tuple[int, int], k: float, pool: bool) -> torch.Tensor:
    """get_mask of the published LocalBlend; `maps` (2, h, w) are weighted and averaged already."""
    maps = maps[:, None]
    if pool:
        maps = torch.nn.functional.max_pool2d(maps, (3, 3), (1, 1), padding=(1, 1))
    mask = torch.nn.functional.interpolate(maps, size=size)
    mask = mask / mask.max(2, keepdim=True)[0].max(3, keepdim=True)[0]
    mask = mask.gt(k)
    return mask[:1] + mask


def test_a_local_blend_subtracts_words_as_published() -> None:
    generator = torch.Generator().manual_seed(0)
    blend = LocalBlend(
        source="cat", target="dog", subtract=("snow",), threshold=0.4, subtract_threshold=0.7,
        tokens=16,
    )  # fmt: skip
    prompts = ("a cat on snow", "a dog on snow")
    weights = [blend.words(TOKENS, prompts[0], source=True)]
    weights.append(blend.words(TOKENS, prompts[1], source=False))
    blender = Blender(blend, Rows.one_source(targets=1), weights)
    blender.begin(4)
    blender._size, blender._owed = (8, 8), 0
    maps = [torch.rand(2, 16, 77, generator=generator) for _ in range(2)]
    for image, probabilities in enumerate(maps):
        blender.add(image, probabilities, (4, 4))
    x_t = torch.randn(2, 4, 8, 8, generator=generator)
    made = blender.step(x_t)
    pairs = list(zip(maps, weights, strict=True))
    summed, taken = (
        torch.stack([(m * w[row]).sum(-1).mean(0).view(4, 4) for m, w in pairs]) for row in (0, 1)
    )
    mask = authors_mask(summed, (8, 8), 0.4, True)
    mask = (mask * ~authors_mask(taken, (8, 8), 0.7, False)).float()
    assert torch.equal(made, x_t[:1] + mask * (x_t - x_t[:1]))
    assert 0 < mask[1].mean() < 1
    with pytest.raises(PromptError, match="that the local blend subtracts"):
        LocalBlend(source="cat", target="dog", subtract="beach").check_subtracted(
            torch.zeros(2, 77), torch.zeros(2, 77), *prompts
        )
