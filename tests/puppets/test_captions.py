from __future__ import annotations

import re

import pytest
import torch

from masactrl.errors import ConfigError
from masactrl.puppets.captions import (
    ParsedPrompt,
    caption,
    full_prompt,
    known_words,
    parse,
    sample_prompts,
    unknown_words,
)
from masactrl.puppets.scene import (
    ACTIONS,
    COLOURS,
    FACINGS,
    PATTERNS,
    PLACES,
    SPECIES,
    Scene,
    sample_scenes,
)

COUNT = 4000
IDENTITY = {*COLOURS, *PATTERNS, "gray", "striped", "spotted", "patched", "collar"}


def describe(scenes: tuple[Scene, ...], *, omit: float = 1.0, seed: int = 5) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return [caption(scene, generator, omit=omit) for scene in scenes]


def truth(scene: Scene) -> ParsedPrompt:
    return ParsedPrompt(
        species=scene.identity.species,
        action=scene.pose.action,
        facing=scene.pose.facing,
        place=scene.backdrop.place,
    )


@pytest.fixture(scope="module")
def scenes() -> tuple[Scene, ...]:
    return sample_scenes(COUNT, seed=3, close_up=0.3)


@pytest.fixture(scope="module")
def captions(scenes: tuple[Scene, ...]) -> list[str]:
    return describe(scenes)


def test_complete_captions_read_back_exactly(scenes: tuple[Scene, ...]) -> None:
    wrong = [
        (text, scene)
        for text, scene in zip(describe(scenes, omit=0.0), scenes, strict=True)
        if parse(text) != truth(scene)
    ]
    assert wrong == []


def test_what_a_caption_says_is_true(captions: list[str], scenes: tuple[Scene, ...]) -> None:
    for text, scene in zip(captions, scenes, strict=True):
        said, true = parse(text), truth(scene)
        for name in ("species", "action", "facing", "place"):
            assert getattr(said, name) in (None, getattr(true, name)), text


@pytest.mark.parametrize(
    ("attribute", "share"),
    [("facing", 0.30), ("place", 0.20), ("action", 0.15), ("species", 0.08)],
)
@pytest.mark.parametrize("omit", [0.5, 1.0, 2.0])
def test_shares_left_out(
    scenes: tuple[Scene, ...], attribute: str, share: float, omit: float
) -> None:
    texts = describe(scenes, omit=omit)
    left_out = sum(getattr(parse(text), attribute) is None for text in texts) / COUNT
    # Four standard deviations of a share at 4000 captions are at most 0.032.
    assert left_out == pytest.approx(share * omit, abs=0.032)


def test_identity_is_named_seldom(captions: list[str]) -> None:
    named = sum(bool(IDENTITY & set(re.findall(r"\w+", text))) for text in captions) / COUNT
    assert 0.15 < named <= 0.25


def test_close_ups_are_named_and_nothing_else(
    captions: list[str], scenes: tuple[Scene, ...]
) -> None:
    pairs = list(zip(captions, scenes, strict=True))
    close = ["close-up" in text for text, scene in pairs if scene.camera.shot == "close-up"]
    other = ["close-up" in text for text, scene in pairs if scene.camera.shot != "close-up"]
    assert sum(close) / len(close) == pytest.approx(0.85, abs=0.04)
    assert not any(other)


def test_articles(captions: list[str]) -> None:
    for text in captions:
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        assert re.fullmatch(r"[a-z][a-z-]*(,? [a-z][a-z-]*)*", text), text


def test_known_words_are_exactly_the_words_in_use(captions: list[str]) -> None:
    words = {word for text in captions for word in re.findall(r"\w+", text)}
    assert words <= set(known_words())
    assert set(known_words()) - words == set()
    assert len(set(captions)) > 0.8 * COUNT


def test_deterministic(scenes: tuple[Scene, ...], captions: list[str]) -> None:
    assert describe(scenes) == captions
    assert describe(scenes, seed=6) != captions


@pytest.mark.parametrize("omit", [-0.1, 3.1, float("nan")])
def test_omit_out_of_range(scenes: tuple[Scene, ...], omit: float) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 3\]"):
        caption(scenes[0], torch.Generator(), omit=omit)


def test_full_prompt() -> None:
    text = full_prompt("elephant", "sitting", "meadow", "left")
    assert text == "an elephant sitting in the meadow, facing left"
    for species in SPECIES:
        for action in ACTIONS:
            for place in PLACES:
                for facing in FACINGS:
                    said = parse(full_prompt(species, action, place, facing))
                    assert said == ParsedPrompt(
                        species=species, action=action, facing=facing, place=place
                    )


@pytest.mark.parametrize(
    "names",
    [
        ("zebra", "sitting", "meadow", "left"),
        ("cat", "flying", "meadow", "left"),
        ("cat", "sitting", "moon", "left"),
        ("cat", "sitting", "meadow", "up"),
    ],
)
def test_full_prompt_of_unknown_names(names: tuple[str, str, str, str]) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        full_prompt(*names)


def test_sample_prompts_name_all_and_only_the_four() -> None:
    tasks = sample_prompts(400, 11)
    assert tasks == sample_prompts(400, 11)
    assert tasks != sample_prompts(400, 12)
    assert tasks[:100] == sample_prompts(100, 11)
    for task in tasks:
        assert parse(task.prompt) == ParsedPrompt(
            species=task.species, action=task.action, facing=task.facing, place=task.place
        )
        assert not IDENTITY & set(re.findall(r"\w+", task.prompt))
        assert "close-up" not in task.prompt
    assert {task.action for task in tasks} == set(ACTIONS)
    assert sample_prompts(0, 0) == ()
    with pytest.raises(ConfigError, match="count"):
        sample_prompts(-1, 0)


def test_known_words_are_plain_and_sorted() -> None:
    words = known_words()
    assert list(words) == sorted(set(words))
    assert all(re.fullmatch("[a-z]+", word) for word in words)
    assert {"cat", "meadow", "running", "close", "up", "collar", "grey", "gray"} <= set(words)


def test_unknown_words() -> None:
    assert unknown_words("") == ()
    assert unknown_words("A CAT sitting, in the Meadow (close-up).") == ()
    text = "a cat\u2019s Zebra \u2014 \u201criding\u201d a café 3 \U0001f600 zebra in the snow!"
    assert unknown_words(text) == ("cat\u2019s", "zebra", "riding", "café", "3", "\U0001f600")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ParsedPrompt()),
        ("an animal", ParsedPrompt()),
        (
            "a running dog on the beach",
            ParsedPrompt(species="dog", action="running", place="beach"),
        ),
        (
            "In the snow, a bunny looks back!",
            ParsedPrompt(species="rabbit", action="looking back", place="snow"),
        ),
        (
            "a bear standing on its hind legs, facing right",
            ParsedPrompt(species="bear", action="rearing", facing="right"),
        ),
        (
            "a fox turning its head, turned to the left",
            ParsedPrompt(species="fox", action="looking back", facing="left"),
        ),
        ("a purple zebra in the city of gold", ParsedPrompt(place="city")),
    ],
)
def test_parse(text: str, expected: ParsedPrompt) -> None:
    assert parse(text) == expected
