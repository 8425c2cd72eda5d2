r"""Word alignment of Prompt-to-Prompt: which source words a target word takes its attention from.

Refinement aligns the token sequences x (source) and y (target) globally, begin and end token
included, with score 1 for a match, -1 for a mismatch and 0 for a gap (Needleman and Wunsch):

    m[i, j] = max(m[i, j-1], m[i-1, j], m[i-1, j-1] + s(x_i, y_j))

and of equal scores prefers the gap in x, then the gap in y, as the published code does.

    A(j)       token of the source aligned with token j of the target
    alpha_j    1 where there is one, 0 where the word is new

Replacement maps word by word: prompts of equally many words, M (source tokens, target tokens) with
M_ij = 1 for unchanged words, and 1 / (tokens of the target word) where the tokens of a replaced
word differ in number.

Padding takes its attention from padding: the k-th token behind the target's end from the k-th
behind the source's. The published code has the identity on the *target's* index there, in
replacement already behind the last replaced word, so that words behind a word that became longer
or shorter, or padding, take the attention of other words; `published=True` does as it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.words import check_prompt
from masactrl.errors import PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["align", "refinement", "replacement", "word_tokens"]


def align(x: Sequence[int], y: Sequence[int]) -> tuple[int, ...]:
    """For every token of `y` the number of the aligned token of `x`, or -1.

    >>> align((0, 5, 6, 1), (0, 5, 9, 6, 1))
    (0, 1, -1, 2, 3)
    """
    m = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            both = m[i - 1][j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            m[i][j] = max(m[i][j - 1], m[i - 1][j], both)
    aligned = [-1] * len(y)
    i, j = len(x), len(y)
    while i > 0 and j > 0:
        if m[i][j] == m[i][j - 1]:
            j -= 1
        elif m[i][j] == m[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            aligned[j] = i
    return tuple(aligned)


def refinement(
    tokenizer: Any, source: str, target: str, *, published: bool = False
) -> tuple[Tensor, Tensor]:
    """A (words,) of source token numbers and alpha (words,) in {0, 1}, for all tokens.

    Behind the target's last token alpha is 1, so that padding is taken over.
    """
    x, y = check_prompt(tokenizer, source), check_prompt(tokenizer, target)
    aligned = align(x, y)
    limit = int(tokenizer.model_max_length)
    first = len(y) if published else len(x)  # of the source's padding
    behind = [min(first + k, limit - 1) for k in range(limit - len(y))]
    index = torch.tensor([*aligned, *behind], dtype=torch.long, device="cpu")
    return index.clamp(min=0), (index >= 0).to(torch.float32)


def replacement(tokenizer: Any, source: str, target: str, *, published: bool = False) -> Tensor:
    """M (source tokens, target tokens) of all tokens.

    Raises `PromptError` when the prompts differ in their number of words.
    """
    x, y = source.split(), target.split()
    if len(x) != len(y):
        raise PromptError(
            f"Words can be replaced between prompts of equally many words, but {source!r} has "
            f"{len(x)} and {target!r} has {len(y)}. Use edit='refine' for such prompts."
        )
    limit = int(tokenizer.model_max_length)
    spans = zip(_spans(tokenizer, source), _spans(tokenizer, target), strict=True)
    changed = [pair for a, b, pair in zip(x, y, spans, strict=True) if a != b]
    mapping = torch.zeros(limit, limit, dtype=torch.float32, device="cpu")
    i = j = 0  # tokens mapped so far
    for of_source, of_target in changed:
        while i < of_source.start and i < limit and j < limit:
            mapping[i, j] = 1.0
            i, j = i + 1, j + 1
        if of_source.stop > limit or of_target.stop > limit:
            break
        if len(of_source) == len(of_target):
            for a, b in zip(of_source, of_target, strict=True):
                mapping[a, b] = 1.0
        else:
            mapping[of_source.start : of_source.stop, of_target.start : of_target.stop] = 1 / len(
                of_target
            )
        i, j = of_source.stop, of_target.stop
    if published:
        for k in range(j, limit - max(i - j, 0)):
            mapping[k, k] = 1.0
        return mapping
    for k in range(limit - j):
        mapping[min(i + k, limit - 1), j + k] = 1.0
    return mapping


def word_tokens(tokenizer: Any, prompt: str, word: str) -> tuple[int, ...]:
    """Token numbers of every occurrence of a word, or of a phrase; empty when there is none.

    Words are what spaces separate; a comma or full stop behind one may be left out.
    """
    words, wanted = prompt.split(), word.split()
    bare = [one.strip(".,;:!?") for one in words]
    spans = _spans(tokenizer, prompt)
    found: list[int] = []
    for at in range(len(words) - len(wanted) + 1):
        here = slice(at, at + len(wanted))
        if wanted and wanted in (words[here], bare[here]):
            found += [token for span in spans[here] for token in span]
    limit = int(tokenizer.model_max_length)
    return tuple(sorted({token for token in found if token < limit - 1}))


def _spans(tokenizer: Any, prompt: str) -> list[range]:
    """The token numbers of every word of a prompt; the begin token is 0."""
    pieces = [
        [int(i) for i in tokenizer(word, add_special_tokens=False).input_ids]
        for word in prompt.split()
    ]
    whole = [int(i) for i in tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids]
    if [i for piece in pieces for i in piece] != whole:
        raise PromptError(
            f"The tokens of {prompt!r} cannot be told apart word by word, so its words cannot be "
            "aligned. Separate words by spaces."
        )
    spans: list[range] = []
    start = 1
    for piece in pieces:
        spans.append(range(start, start + len(piece)))
        start += len(piece)
    return spans
