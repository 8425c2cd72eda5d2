"""The embedded model's tokenizer: CLIP's byte-level BPE over the vocabulary of the caption grammar.

Every word of the grammar is one token; any other text falls apart into pieces, in the last resort
into bytes, so that nothing is unknown to the tokenizer. Built from the grammar alone, offline.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast

from transformers import CLIPTokenizer

from masactrl.puppets.words import known_words

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Tokens of a padded prompt, as in SD 1.x.
MAX_LENGTH: Final = 77
START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
_WORD_END: Final = "</w>"

_Merge = tuple[str, str]


def build_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer; the same ids on every call.

    Ids follow CLIP's order: 256 byte symbols, the same with ``</w>``, one per merge, then start and
    end, which therefore is the highest id. Padding is the end token, to 77.
    """
    merges = learn_merges(known_words())
    symbols = byte_symbols()
    tokens = [*symbols, *(s + _WORD_END for s in symbols), *(a + b for a, b in merges), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=cast("list[str]", list(merges)),  # annotated so; the backend takes pairs
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save for diffusers and for older readers.

    transformers 5 writes only ``tokenizer.json`` and ``tokenizer_config.json``; tools of the SD 1.x
    ecosystem read ``vocab.json`` and ``merges.txt``, so both pairs are written. Call it also after
    ``pipeline.save_pretrained``, on the pipeline's ``tokenizer`` folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    tokenizer.backend_tokenizer.model.save(str(folder))


def byte_symbols() -> tuple[str, ...]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order of the vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    # Bytes without a printable character of their own are named by the code points from 256 on.
    return tuple(map(chr, [*printable, *(256 + n for n in range(len(hidden)))]))


def learn_merges(words: Iterable[str]) -> tuple[_Merge, ...]:
    """Merges that make every (ASCII, lower-case) word one token, in order of priority.

    A new merge ranks below all earlier ones, and an earlier word always has an earlier merge to
    apply until it is whole; so adding a word never breaks one that came before it.
    """
    ranks: dict[_Merge, int] = {}
    for word in words:
        pieces = _apply(word, ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _apply(word, ranks)
    return tuple(ranks)


def _apply(word: str, ranks: dict[_Merge, int]) -> list[str]:
    """BPE: merge the pair of the best rank everywhere, until no pair has a rank."""
    pieces = [*word[:-1], word[-1] + _WORD_END]
    while True:
        pairs = [pair for pair in pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        for piece in pieces:
            # A piece that completes the pair is joined to the one before it, left to right.
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
