"""Captions of the puppet world: a small grammar that writes prompts; `words` reads them back.

A caption names species, action, place and facing with synonyms and in varied order. A good share
leaves attributes out, so that what the prompt does not say is decided by noise and self-attention.
Coat and collar are named seldom: in an edit the identity comes from the source, not from the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from masactrl.errors import ConfigError
from masactrl.puppets.scene import (
    ACTIONS,
    FACINGS,
    PLACES,
    SPECIES,
    Identity,
    Scene,
    colour_name,
)
from masactrl.puppets.words import (
    ADJECTIVES,
    ANY_ANIMAL,
    CLOSE_UPS,
    NOUNS,
    OPENERS,
    PARTICIPLES,
    PATTERN_ADJECTIVES,
    TOWARDS,
    VERBS,
    WHERE,
    ParsedPrompt,
    Phrases,
    known_words,
    parse,
    unknown_words,
)

__all__ = [
    "ParsedPrompt",
    "PromptTask",
    "caption",
    "full_prompt",
    "known_words",
    "parse",
    "sample_prompts",
    "unknown_words",
]

# Shares of the captions that leave an attribute out (scaled by ``omit``) or name it at all.
_OMIT_FACING: Final = 0.30
_OMIT_PLACE: Final = 0.20
_OMIT_ACTION: Final = 0.15
_OMIT_SPECIES: Final = 0.08
_NAME_COAT: Final = 0.20
_NAME_COLLAR: Final = 0.06
_NAME_CLOSE_UP: Final = 0.85

# Sixteen tickets for the order of a caption; "plain" is noun, action, place, facing.
_ORDERS: Final = (
    *("plain",) * 7,
    *("adjective",) * 2,
    *("sentence",) * 2,
    *("where first", "where inside", "facing first", "facing inside", "tags"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTask:
    """A prompt and what its picture must show, named as in `masactrl.puppets.scene`."""

    prompt: str
    species: str
    action: str
    facing: str
    place: str
    close_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What one caption will say: scene names, and ready words for coat and collar."""

    species: str | None
    action: str | None
    facing: str | None
    place: str | None
    adjectives: str = ""
    extras: str = ""
    close_up: bool = False


class _Draws:
    """Uniform numbers for one caption, taken in order from a single tensor draw."""

    __slots__ = ("_left",)

    def __init__(self, generator: torch.Generator) -> None:
        values: list[float] = torch.rand(32, generator=generator, dtype=torch.float64).tolist()
        self._left = iter(values)

    def chance(self, probability: float) -> bool:
        return next(self._left) < probability

    def index(self, count: int) -> int:
        return min(int(next(self._left) * count), count - 1)

    def phrase(self, options: tuple[str, ...]) -> str:
        """The first option in half of the draws, else one of the others."""
        u = next(self._left)
        if u < 0.5 or len(options) == 1:
            return options[0]
        return options[1 + min(int((u - 0.5) * 2 * (len(options) - 1)), len(options) - 2)]

    def even(self, options: tuple[str, ...]) -> str:
        return options[self.index(len(options))]


def caption(scene: Scene, generator: torch.Generator, *, omit: float = 1.0) -> str:
    """Describe a scene in random words, leaving some attributes out.

    Facing is left out in 30 % of the captions, place in 20 %, action in 15 %, species in 8 % ("an
    animal"). Coat or collar are named in under 25 %. Close-ups are called so in 85 % of close-ups.

    Args:
        scene: what the picture shows.
        generator: CPU generator; the caption is a function of the scene and of its state.
        omit: factor on the four shares, in [0, 3]; 0 names all four attributes.

    Raises:
        ConfigError: ``omit`` is out of range.
    """
    if not 0.0 <= omit <= 3.0:
        raise ConfigError(f"omit must be in [0, 3], not {omit}.")
    draws = _Draws(generator)
    adjectives, extras = _identity_words(scene.identity, draws)
    facts = _Facts(
        facing=None if draws.chance(_OMIT_FACING * omit) else scene.pose.facing,
        place=None if draws.chance(_OMIT_PLACE * omit) else scene.backdrop.place,
        action=None if draws.chance(_OMIT_ACTION * omit) else scene.pose.action,
        species=None if draws.chance(_OMIT_SPECIES * omit) else scene.identity.species,
        adjectives=adjectives,
        extras=extras,
        close_up=draws.chance(_NAME_CLOSE_UP) and scene.camera.shot == "close-up",
    )
    return _compose(facts, draws)


def full_prompt(species: str, action: str, place: str, facing: str) -> str:
    """The canonical prompt with all four attributes: "a cat sitting in the meadow, facing left".

    Raises:
        ConfigError: a name is not one of the world's.
    """
    start = spare_prompt(species, action)
    _check_name("place", place, PLACES)
    _check_name("facing", facing, FACINGS)
    return f"{start} {WHERE[place][0]}, {TOWARDS[facing][0]}"


def spare_prompt(species: str, action: str) -> str:
    """The prompt that names animal and action alone, "a cat sitting"; the rest is left open.

    Raises:
        ConfigError: a name is not one of the world's.
    """
    _check_name("species", species, SPECIES)
    _check_name("action", action, ACTIONS)
    return f"{_with_article(species)} {PARTICIPLES[action][0]}"


def _check_name(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{what} {value!r} is not one of {', '.join(allowed)}.")


def sample_prompts(count: int, seed: int, *, close_up: bool = False) -> tuple[PromptTask, ...]:
    """Draw evaluation prompts: all four attributes named, uniformly; no coat or collar.

    Args:
        count: how many.
        seed: the same seed, the same prompts.
        close_up: whether all of them ask for a close-up; else none does.

    Raises:
        ConfigError: ``count`` is negative.
    """
    if count < 0:
        raise ConfigError(f"count must be at least 0, not {count}.")
    generator = torch.Generator().manual_seed(seed)
    return tuple(_sample_prompt(_Draws(generator), close_up) for _ in range(count))


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _colour(colour: tuple[float, float, float], draws: _Draws) -> str:
    name = colour_name(colour)
    return "gray" if name == "grey" and draws.chance(0.3) else name


def _identity_words(identity: Identity, draws: _Draws) -> tuple[str, str]:
    """Adjectives before the noun and phrases after it; both empty in most captions."""
    adjectives, extras = "", ""
    if draws.chance(_NAME_COAT):
        coat = _colour(identity.coat, draws)
        kind = draws.even(("colour", "adjective", "accent", "pattern"))
        look = PATTERN_ADJECTIVES.get(identity.pattern)
        adjectives = coat
        if kind == "adjective" and look is not None:
            adjectives = f"{look} {coat}"
        elif kind == "pattern" and look is not None:
            adjectives = look
        elif kind in ("accent", "pattern") and identity.pattern != "plain":
            extras = f"with {_colour(identity.accent, draws)} {identity.pattern}"
    if identity.collar is not None and draws.chance(_NAME_COLLAR):
        verb = ("and" if extras else "with") if draws.chance(0.7) else "wearing"
        collar = _with_article(f"{_colour(identity.collar, draws)} collar")
        extras = f"{extras} {verb} {collar}".strip()
    return adjectives, extras


def _sample_prompt(draws: _Draws, close_up: bool) -> PromptTask:
    species, action = draws.even(SPECIES), draws.even(ACTIONS)
    facing, place = draws.even(FACINGS), draws.even(PLACES)
    said = {"species": species, "action": action, "facing": facing, "place": place}
    prompt = _compose(_Facts(**said, close_up=close_up), draws)
    return PromptTask(prompt=prompt, **said, close_up=close_up)


def _compose(facts: _Facts, draws: _Draws) -> str:
    """One sentence in one of eight orders; parts that are not said leave no trace."""
    order = draws.even(_ORDERS)
    animal = ANY_ANIMAL if facts.species is None else NOUNS[facts.species]
    noun = _join(facts.adjectives, draws.phrase(animal))
    doing = _said(PARTICIPLES, facts.action, draws)
    verb = _said(VERBS, facts.action, draws)
    where = _said(WHERE, facts.place, draws)
    towards = _said(TOWARDS, facts.facing, draws)
    comma = draws.chance(0.8)
    if order == "tags":
        tags = (noun, facts.extras, doing, facts.place or "", towards)
        return _listed("close-up" if facts.close_up else "", *tags)
    before = ADJECTIVES.get(facts.action or "")
    if order == "adjective" and before is not None:
        noun = _join(draws.even(before), noun)
        doing = ""
    subject = f"the {noun}" if draws.chance(0.08) else _with_article(noun)
    subject = _join(subject, facts.extras)
    opener, mark = _opening(order, facts, draws)
    if order == "where first":
        return _listed(where, _join(subject, verb), towards, mark)
    if order == "sentence":
        return _listed(_join(subject, verb, where), towards, mark)
    if order == "facing first":
        return _listed(towards, _join(subject, doing, where), mark)
    if order == "facing inside":
        return _listed(_join(opener, subject, towards), _join(doing, where))
    if order == "where inside":
        return _listed(_join(opener, subject, where), doing, towards)
    said = _join(opener, subject, doing, where)
    return _listed(said, towards) if comma else _join(said, towards)


def _opening(order: str, facts: _Facts, draws: _Draws) -> tuple[str, str]:
    """Words before the subject, often none; a close-up is told there or by a mark at the end."""
    ordinary = draws.even(OPENERS) if draws.chance(0.2) else ""
    if not facts.close_up:
        return ordinary, ""
    if order in ("where first", "sentence", "facing first"):
        return "", "close-up"
    return draws.phrase(CLOSE_UPS), ""


def _said(table: Phrases, value: str | None, draws: _Draws) -> str:
    """A phrase for a value; always one draw, so that what is left out shifts nothing."""
    return draws.phrase(table[value] if value is not None else ("",))


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _listed(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
