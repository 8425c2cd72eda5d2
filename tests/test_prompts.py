from __future__ import annotations

import dataclasses

import pytest

from masactrl.models import LoadedModel
from masactrl.runs.prompts import prompt_warnings


@pytest.fixture
def puppets(model: LoadedModel) -> LoadedModel:
    """The tiny model in the part of the embedded one."""
    return dataclasses.replace(model, family="puppets")


def test_words_of_the_world_pass(puppets: LoadedModel) -> None:
    prompts = ["a cat standing in the meadow, facing left", "A running dog on the beach.", ""]
    assert prompt_warnings(puppets, prompts) == ()


def test_unknown_words_are_named_with_some_that_are_known(puppets: LoadedModel) -> None:
    (sentence,) = prompt_warnings(puppets, ["a helicopter and a runing cat in the meadow"])
    assert 'does not know "helicopter", "runing"' in sentence
    assert "running" in sentence.partition("its world")[0]
    for known in ("cat", "jumping", "meadow"):
        assert known in sentence.partition("its world")[2]


def test_each_prompt_is_said_once(puppets: LoadedModel) -> None:
    assert len(prompt_warnings(puppets, ["a tram", "a tram", "a bus"])) == 2


def test_other_models_know_all_words(model: LoadedModel) -> None:
    assert prompt_warnings(model, ["a helicopter"]) == ()


def test_what_is_cut_is_shown(model: LoadedModel) -> None:
    fits = " ".join(["cat"] * 75)
    assert prompt_warnings(model, [fits]) == ()
    (sentence,) = prompt_warnings(model, [f"{fits} red beach"])
    assert "77 tokens" in sentence
    assert "not seen is: 'red beach'" in sentence


def test_the_prompt_that_is_too_long_is_not_logged_by_the_tokenizer_too(
    model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    prompt_warnings(model, ["cat " * 100])
    assert caplog.records == []
