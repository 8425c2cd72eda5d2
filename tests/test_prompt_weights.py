"""Weights in prompts as web UIs write them: what is read, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tiny_models

from masactrl import EditRequest, GenerateRequest, InversionRequest
from masactrl.errors import PromptError
from masactrl.settings.prompt_weights import is_weighted, literal, parse, without_weights


def read(prompt: str) -> list[tuple[str, float]]:
    return [(span.text, pytest.approx(span.weight)) for span in parse(prompt)]


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        # The examples of AUTOMATIC1111's `parse_prompt_attention`.
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        # And what they leave open.
        ("", []),
        ("()", []),
        ("((a cat))", [("a cat", 1.21)]),
        ("[a cat]", [("a cat", 1 / 1.1)]),
        ("[[a] cat", [("a", 1 / 1.21), (" cat", 1 / 1.1)]),
        ("(a cat:1.4)", [("a cat", 1.4)]),
        ("(a cat : 2 )", [("a cat ", 2.0)]),
        ("(a cat:.5)", [("a cat", 0.5)]),
        ("(a cat:+0)", [("a cat", 0.0)]),
        ("(a (big:2) cat:1.5)", [("a ", 1.5), ("big", 3.0), (" cat", 1.5)]),
        ("[a cat:1.4]", [("a cat:1.4", 1 / 1.1)]),  # only round brackets have numbers
        ("a cat:1.4)", [("a cat:1.4)", 1.0)]),  # was never opened
        ("a cat :) at 10:30", [("a cat :) at 10:30", 1.0)]),
        (r"(a cat \(big\):1.4)", [("a cat (big)", 1.4)]),
        (r"\\(cat)", [("\\", 1.0), ("cat", 1.1)]),
        ("a\\b", [("a\\b", 1.0)]),
        # What means something in compel's own way of writing weights.
        (r"""cat+ -"red".and\(\) 'x'--""", [("""cat+ -"red".and() 'x'--""", 1.0)]),
        ("(cat:1), dog", [("cat, dog", 1.0)]),
    ],
)
def test_what_is_read(prompt: str, spans: list[tuple[str, float]]) -> None:
    assert read(prompt) == spans


@pytest.mark.parametrize("weight", ["1.2.3", "1,4", ".", "-1", "9" * 400])
def test_what_is_no_weight_is_a_sentence(weight: str) -> None:
    prompt = f"(a cat:{weight})"
    with pytest.raises(PromptError, match=r"accepted is a number of 0 and more.*written \\\("):
        parse(prompt)
    doors: list[dict[str, Any]] = [
        {"source_prompt": prompt},
        {"target_prompts": (prompt,)},
        {"negative_prompt": prompt},
    ]
    for given in doors:
        with pytest.raises(PromptError, match="has the weight"):
            GenerateRequest(**{"source_prompt": "a cat", "target_prompts": ("a dog",), **given})
    with pytest.raises(PromptError, match="has the weight"):
        EditRequest(target_prompts=(prompt,))
    with pytest.raises(PromptError, match="has the weight"):
        EditRequest(target_prompts=("a dog",), negative_prompt=prompt)
    with pytest.raises(PromptError, match="has the weight"):
        InversionRequest(source_prompt=prompt)


def test_brackets_around_nothing_are_an_empty_prompt() -> None:
    with pytest.raises(PromptError, match="source prompt is empty"):
        GenerateRequest(source_prompt="( )", target_prompts=("a dog",))
    with pytest.raises(PromptError, match="Target prompt 1 is empty"):
        GenerateRequest(source_prompt="a cat", target_prompts=("[]",))
    with pytest.raises(PromptError, match="Target prompt 1 is empty"):
        EditRequest(target_prompts=("()",))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat, running: fast", "a cat, running: fast"),
        ("a (cat:1.4), [big]; ((red))!", "a cat, big; red!"),
        ("a (cat)s", "a cat s"),
        ("(1)(2:1.3)3", "1 2 3"),
        ("(cat)'s", "cat 's"),
        ("(!):1", "! :1"),
        (r"a cat \(sitting\)", "a cat (sitting)"),
        ("()", ""),
    ],
)
def test_what_is_left_without_weights(prompt: str, said: str) -> None:
    assert without_weights(prompt) == said


@pytest.mark.parametrize(
    ("prompt", "weighted"),
    [
        ("a cat", False),
        (r"a cat \(big\)", False),
        ("a (cat:1.0)", False),
        ("[(a cat:1.1)]", False),
        ("a ( ) cat", False),
        ("a (cat)", True),
        ("a [cat]", True),
        ("(a cat:0)", True),
    ],
)
def test_which_prompts_have_weights(prompt: str, weighted: bool) -> None:
    assert is_weighted(prompt) is weighted


def test_the_tokens_without_weights_are_those_of_the_parts() -> None:
    tokenizer = tiny_models.tokenizer()
    chance = random.Random(0)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    pieces = [
        "cat",
        "corgi",
        " ",
        " a",
        "(",
        ")",
        "[",
        "]",
        ":1.3)",
        ":.5)",
        "'",
        "s",
        "'s",
        ",",
        ".",
        "!",
    ]
    pieces += ["7", "-", "\\(", "\\)", "é", "²", "<|endoftext|>", '"', "+", "\n"]
    for _ in range(3000):
        prompt = "".join(chance.choices(pieces, k=chance.randrange(1, 12)))
        parts = [one for span in parse(prompt) for one in ids(span.text)]
        assert ids(without_weights(prompt)) == parts, prompt


def test_letters_come_back() -> None:
    chance = random.Random(1)
    for _ in range(500):
        text = "".join(chance.choices("ab \\()[]:1.", k=chance.randrange(12)))
        prompt = literal(text)
        assert without_weights(prompt) == text
        assert not is_weighted(prompt)
    assert literal("a cat: 1.4") == "a cat: 1.4"


def test_half_a_letter_is_no_text() -> None:
    with pytest.raises(PromptError, match="no text in UTF-8"):
        parse("a \ud800 cat")
