"""From words to the token numbers they occupy in a prompt."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from masactrl.errors import ControlWarning, PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_prompt", "token_numbers"]


def check_prompt(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """The token numbers-to-ids of a prompt as the text encoder will see it, begin token first.

    A prompt that is too long is cut by the pipeline; this warns and shows what is lost.
    """
    ids = [int(i) for i in tokenizer(prompt, truncation=False).input_ids]
    limit = int(tokenizer.model_max_length)
    if len(ids) > limit:
        lost = tokenizer.decode(ids[limit - 1 : -1])
        warnings.warn(
            f"The prompt has {len(ids)} tokens but the text encoder takes {limit}; this part is "
            f"cut off: {lost!r}. Shorten the prompt, or say the important things first.",
            ControlWarning,
            stacklevel=2,
        )
        ids = [*ids[: limit - 1], ids[-1]]
    return tuple(ids)


def token_numbers(
    tokenizer: Any, prompt: str | None, words: Sequence[str | int]
) -> tuple[int, ...]:
    """The positions of words, phrases and token numbers in a prompt; 0 is the begin token.

    A phrase takes all its tokens, a word that occurs twice both occurrences. Raises `PromptError`
    for a word that is not in the prompt (and shows its tokens) or a number beyond the encoder's.
    """
    limit = int(tokenizer.model_max_length)
    named = any(isinstance(word, str) for word in words)
    ids = check_prompt(tokenizer, prompt) if named and prompt is not None else ()
    found: set[int] = set()
    for word in words:
        if isinstance(word, int):
            if not 0 <= word < limit:
                raise PromptError(
                    f"Token number {word} was given; the text encoder has tokens 0 to {limit - 1}."
                )
            found.add(word)
            continue
        if prompt is None:
            raise PromptError(
                f"The word {word!r} was named without its prompt. Pass the prompts of all images, "
                "or give token numbers."
            )
        found.update(_occurrences(tokenizer, prompt, ids, word))
    return tuple(sorted(found))


def _occurrences(tokenizer: Any, prompt: str, ids: tuple[int, ...], word: str) -> set[int]:
    wanted = tuple(int(i) for i in tokenizer(word, add_special_tokens=False).input_ids)
    last = len(ids) - 1  # the end token
    first = 0 if getattr(tokenizer, "bos_token_id", None) is None else 1  # T5 has no begin token
    starts = [
        start
        for start in range(first, last - len(wanted) + 1)
        if wanted and ids[start : start + len(wanted)] == wanted
    ]
    if not starts:
        tokens = tokenizer.convert_ids_to_tokens(list(ids[first:last]))
        bare = (token.replace("</w>", "").replace("▁", "") for token in tokens)
        shown = ", ".join(f"{n} {token!r}" for n, token in enumerate(bare, start=first))
        raise PromptError(
            f"The word {word!r} is not in the prompt {prompt!r}. Its tokens are: "
            f"{shown or 'none'}. Name one of them, or give token numbers."
        )
    return {start + offset for start in starts for offset in range(len(wanted))}
