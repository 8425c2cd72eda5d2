r"""Weights in prompts, read as web UIs write them; what acts on a model is `models.weighted_text`.

    (a cat)           weight 1.1; every further pair of brackets multiplies: ((a cat)) has 1.21
    (a cat:1.4)       weight 1.4
    [a cat]           weight 1 / 1.1
    \( \) \[ \] \\    the letters themselves

The rules are those of AUTOMATIC1111's web UI, so a bracket that is never closed ends with the
prompt, and a closing one that was never opened is a letter. In two places a sentence comes instead
of a guess: for a weight that is no number, which is fatal there, and for one that is negative.

This file knows neither torch nor a model, so that requests can refuse a bad weight at the door.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from masactrl.errors import PromptError

__all__ = ["Span", "is_weighted", "literal", "parse", "without_weights"]

_MORE = 1.1  # weight of a pair of brackets
_TOKEN = re.compile(
    r"""(?P<letter>\\[\\()\[\]])
    |   :\s*(?P<weight>[+-]?[.,\d]+)\s*\)
    |   (?P<bracket>[()\[\]])
    |   [^\\()\[\]:]+ | [\\:]""",
    re.VERBOSE,
)
_SPECIAL = re.compile(r"[\\()\[\]]")
_CLOSE = frozenset(",.;:!?")  # follow a word without a space and are tokens of their own


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a prompt and its weight, 0 and more; 1 is as it stands."""

    text: str
    weight: float


def parse(prompt: str) -> tuple[Span, ...]:
    r"""Return the parts of a prompt in order, neighbours of one weight joined.

    Raises `PromptError` for a weight that is no number of 0 and more, and for half a letter, which
    a terminal of another encoding gives.

    >>> [(span.text, span.weight) for span in parse(r"a (cat:1.5) \(big\)")]
    [('a ', 1.0), ('cat', 1.5), (' (big)', 1.0)]
    """
    if not prompt.isascii() and any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise PromptError(f"The prompt {prompt!a} is no text in UTF-8; write it in that encoding.")
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where each open bracket began

    def close(bracket: str, factor: float) -> None:
        for at in range(opened[bracket].pop(), len(weights)):
            weights[at] *= factor

    for token in _TOKEN.finditer(prompt):
        text, bracket = token[0], token["bracket"]
        if bracket in opened:
            opened[bracket].append(len(texts))
        elif bracket == ")" and opened["("]:
            close("(", _MORE)
        elif bracket == "]" and opened["["]:
            close("[", 1 / _MORE)
        elif token["weight"] and opened["("]:
            close("(", _weight(token["weight"], prompt))
        else:
            texts.append(text[1:] if token["letter"] else text)
            weights.append(1.0)
    for bracket, factor in (("(", _MORE), ("[", 1 / _MORE)):
        while opened[bracket]:
            close(bracket, factor)
    return _joined(texts, weights)


def without_weights(prompt: str) -> str:
    r"""Return a prompt without its weights, which has the tokens of its parts in their order.

    Parts that would run together get a space between them, because the parts of a weighted prompt
    are told to the tokenizer one by one. A prompt without brackets comes back as it is.

    >>> without_weights("a ((cat)), (run:1.2)ning")
    'a cat, run ning'
    """
    said = ""
    for span in parse(prompt):
        said += f" {span.text}" if _run_together(said, span.text) else span.text
    return said


def is_weighted(prompt: str) -> bool:
    """Whether any words of a prompt have another weight than 1."""
    return any(span.weight != 1 and span.text.strip() for span in parse(prompt))


def literal(text: str) -> str:
    r"""Return the prompt whose letters are these, brackets included.

    >>> literal("a cat (asleep)")
    'a cat \\(asleep\\)'
    """
    return _SPECIAL.sub(r"\\\g<0>", text)


def _weight(text: str, prompt: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if math.isfinite(weight) and weight >= 0:
        return weight
    raise PromptError(
        f"The prompt {prompt!r} has the weight {text}; accepted is a number of 0 and more, as in "
        r"(a cat:1.4). Brackets that are letters are written \( and \)."
    )


def _joined(texts: list[str], weights: list[float]) -> tuple[Span, ...]:
    found: list[Span] = []
    for text, weight in zip(texts, weights, strict=True):
        if found and found[-1].weight == weight:
            found[-1] = Span(found[-1].text + text, weight)
        else:
            found.append(Span(text, weight))
    return tuple(found)


def _run_together(left: str, right: str) -> bool:
    """Whether a tokenizer might see other tokens in the two than in each by itself."""
    if not left or not right or left[-1].isspace() or right[0].isspace():
        return False
    return not (left[-1].isalnum() and right[0] in _CLOSE)
