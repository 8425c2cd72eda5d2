"""What a model will not see of a prompt: words it never learned, what is too long, weights."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from masactrl.settings.prompt_weights import is_weighted, without_weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from masactrl.models import LoadedModel


def prompt_warnings(model: LoadedModel, prompts: Iterable[str]) -> tuple[str, ...]:
    """Return one sentence for every prompt that the model will not see as it was written.

    Weights that cannot act are one sentence for all prompts.

    Args:
        model: whose tokenizer and vocabulary count.
        prompts: looked at once each, in order.
    """
    from masactrl.models.joint import longest_text
    from masactrl.models.presets import PUPPETS

    written = tuple(prompts)
    found = _unweighted(model, written)
    tokenizer, longest = longest_text(model.pipeline)
    for prompt in dict.fromkeys(map(without_weights, written)):
        if model.family in PUPPETS:
            found += _unknown(prompt)
        found += _truncated(prompt, tokenizer, longest)
    return tuple(found)


def _unweighted(model: LoadedModel, prompts: Iterable[str]) -> list[str]:
    """Say what to install where a prompt has weights and nothing that makes them act."""
    from masactrl.models.weighted_text import weights_act

    first = next((prompt for prompt in prompts if is_weighted(prompt)), None)
    if first is None or weights_act(model.pipeline):
        return []
    if model.kind == "flow":
        return [
            f"Weights in prompts are left out, here in {first!r}: they act in Stable Diffusion "
            "1.x, 2.x and XL, and not in SD3 and FLUX."
        ]
    return [
        f"Weights in prompts are left out, here in {first!r}, because they need the extra "
        "'prompts': pip install 'masactrl[prompts]'."
    ]


def _unknown(prompt: str) -> list[str]:
    """Name the words that the embedded model never saw in training, and some that it knows."""
    from masactrl.puppets.captions import known_words, unknown_words
    from masactrl.puppets.scene import ACTIONS, PLACES, SPECIES

    unknown = unknown_words(prompt)
    if not unknown:
        return []
    known = known_words()
    near = dict.fromkeys(match for word in unknown for match in get_close_matches(word, known, n=2))
    meant = f"similar words that it knows are {', '.join(near)}; " if near else ""
    return [
        f"The embedded model does not know {_quoted(unknown)} (in {prompt!r}) and may draw "
        f"something else; {meant}its world is made of {', '.join(SPECIES)}, that are "
        f"{', '.join(ACTIONS)}, in {', '.join(PLACES)}."
    ]


def _truncated(prompt: str, tokenizer: Any, longest: int) -> list[str]:
    """Show what is lost of a prompt that is longer than the text encoder reads."""
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    if len(ids) <= longest:
        return []
    # Start and end mark stay; the words are cut from the end.
    lost = tokenizer.decode(ids[longest - 1 : -1]).strip()
    return [
        f"The prompt is longer than the model's {longest} tokens and was cut; not seen is: "
        f"{lost!r}."
    ]


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
