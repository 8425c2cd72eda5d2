"""Word alignment of Prompt-to-Prompt on written-out cases; token 0 is the begin token."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from masactrl.errors import PromptError
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
    A, alpha = refinement(TOKENS, source, target)
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
    assert entries(replacement(TOKENS, source, target), 5) == expected


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
