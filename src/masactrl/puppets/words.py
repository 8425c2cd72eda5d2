"""The words of the puppet world: every phrase that a caption can be made of, and reading them back.

`captions` makes sentences of them; the tokenizer keeps each word whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from masactrl.puppets.scene import COLOURS, FACINGS, PLACES

Phrases = Mapping[str, tuple[str, ...]]

# The first phrase of an entry is canonical and drawn in half of the cases, the others evenly.
NOUNS: Final[Phrases] = MappingProxyType(
    {
        "cat": ("cat",),
        "dog": ("dog",),
        "fox": ("fox",),
        "rabbit": ("rabbit", "rabbit", "bunny"),
        "horse": ("horse",),
        "elephant": ("elephant",),
        "bear": ("bear",),
        "giraffe": ("giraffe",),
    }
)
ANY_ANIMAL: Final = ("animal", "creature")
PARTICIPLES: Final[Phrases] = MappingProxyType(
    {
        "standing": ("standing", "standing still"),
        "sitting": ("sitting", "sitting down"),
        "running": ("running", "running fast", "racing"),
        "jumping": ("jumping", "leaping", "jumping up"),
        "lying": ("lying", "lying down", "resting"),
        "rearing": ("rearing", "rearing up", "standing on its hind legs"),
        "grazing": ("grazing", "eating", "feeding"),
        "looking back": (
            "looking back",
            "turning its head",
            "looking behind",
            "looking over its shoulder",
        ),
    }
)
VERBS: Final[Phrases] = MappingProxyType(
    {
        "standing": ("stands", "is standing", "stands still"),
        "sitting": ("sits", "is sitting", "sits down"),
        "running": ("runs", "is running", "runs fast", "races"),
        "jumping": ("jumps", "is jumping", "leaps", "jumps up"),
        "lying": ("lies", "is lying", "lies down", "rests", "is lying down"),
        "rearing": ("rears", "is rearing", "rears up", "stands on its hind legs"),
        "grazing": ("grazes", "is grazing", "eats", "feeds", "is eating"),
        "looking back": (
            "looks back",
            "is looking back",
            "turns its head",
            "looks behind",
            "looks over its shoulder",
        ),
    }
)
# Participles that stand before a noun: "a running dog". "Looking back" cannot.
ADJECTIVES: Final[Phrases] = MappingProxyType(
    {
        "standing": ("standing",),
        "sitting": ("sitting", "seated"),
        "running": ("running", "racing"),
        "jumping": ("jumping", "leaping"),
        "lying": ("lying", "resting"),
        "rearing": ("rearing",),
        "grazing": ("grazing",),
    }
)
WHERE: Final[Phrases] = MappingProxyType(
    {
        "meadow": ("in the meadow", "in a meadow", "on the grass", "in the field", "in a field"),
        "beach": ("on the beach", "on a beach", "by the sea", "at the seaside"),
        "desert": ("in the desert", "in a desert", "among the dunes"),
        "forest": ("in the forest", "in a forest", "in the woods", "among the trees"),
        "snow": ("in the snow", "in snow", "on the snow", "in a snowy landscape"),
        "city": ("in the city", "in a city", "in the street", "on the street", "in town"),
    }
)
TOWARDS: Final[Phrases] = MappingProxyType(
    {
        side: (
            f"facing {side}",
            f"facing to the {side}",
            f"turned to the {side}",
            f"heading {side}",
        )
        for side in FACINGS
    }
)
OPENERS: Final = (
    "a photo of",
    "a picture of",
    "an image of",
    "a drawing of",
    "photo of",
    "picture of",
)
CLOSE_UPS: Final = ("close-up of", "a close-up of", "a close-up photo of", "close-up photo of")
PATTERN_ADJECTIVES: Final = MappingProxyType(
    {"stripes": "striped", "spots": "spotted", "patches": "patched"}
)
_JOINTS: Final = ("a", "an", "the", "with", "wearing", "collar", "socks", "gray", "and")

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*|[^\s\w\x00-\x7f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPrompt:
    """What a prompt says; None where it says nothing."""

    species: str | None = None
    action: str | None = None
    facing: str | None = None
    place: str | None = None


@cache
def known_words() -> tuple[str, ...]:
    """The grammar's vocabulary: lower-case words, sorted. "close-up" counts as two words."""
    tables = (NOUNS, PARTICIPLES, VERBS, ADJECTIVES, WHERE, TOWARDS)
    phrases = [phrase for table in tables for entry in table.values() for phrase in entry]
    phrases += [*ANY_ANIMAL, *OPENERS, *CLOSE_UPS, *_JOINTS, *COLOURS, *PLACES]
    phrases += [word for pair in PATTERN_ADJECTIVES.items() for word in pair]
    return tuple(sorted({word for phrase in phrases for word in words_of(phrase)}))


def unknown_words(prompt: str) -> tuple[str, ...]:
    """Words of a prompt outside `known_words`: lower-case, in order of appearance, no repeats."""
    known = _known()
    return tuple(dict.fromkeys(word for word in words_of(prompt) if word not in known))


def parse(prompt: str) -> ParsedPrompt:
    """Read species, action, facing and place back from a prompt of the grammar.

    At each word the longest known phrase is taken; of several phrases that name one attribute the
    first counts. Words outside the grammar are passed over.

    >>> parse("in the snow, a bunny looks back")
    ParsedPrompt(species='rabbit', action='looking back', facing=None, place='snow')
    """
    table = _phrase_table()
    longest = max(len(phrase) for phrase in table)
    words = words_of(prompt)
    found: dict[str, str] = {}
    at = 0
    while at < len(words):
        step = 1
        for length in range(min(longest, len(words) - at), 0, -1):
            hit = table.get(tuple(words[at : at + length]))
            if hit is not None:
                found.setdefault(*hit)
                step = length
                break
        at += step
    return ParsedPrompt(
        species=found.get("species"),
        action=found.get("action"),
        facing=found.get("facing"),
        place=found.get("place"),
    )


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case, without punctuation."""
    found = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    # Quotes and dashes beyond ASCII are punctuation; an emoji is something the model does not know.
    return [w for w in found if not all(unicodedata.category(c)[0] in "PMC" for c in w)]


@cache
def _known() -> frozenset[str]:
    return frozenset(known_words())


@cache
def _phrase_table() -> Mapping[tuple[str, ...], tuple[str, str]]:
    """Words of a phrase -> (attribute, value)."""
    table: dict[tuple[str, ...], tuple[str, str]] = {}
    for attribute, source in (
        ("species", NOUNS),
        ("action", ADJECTIVES),
        ("action", PARTICIPLES),
        ("action", VERBS),
        ("place", WHERE),
        ("facing", TOWARDS),
    ):
        for value, phrases in source.items():
            for phrase in phrases:
                table[tuple(words_of(phrase))] = (attribute, value)
    table |= {(place,): ("place", place) for place in PLACES}
    table |= {(side,): ("facing", side) for side in FACINGS}
    return MappingProxyType(table)
