"""Every option of every rival changes the picture; the source never changes."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch

from masactrl.attention import Rows, Schedule
from masactrl.methods import METHODS, method_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import DiffusionPipeline

PROMPTS = ["a cat sitting on snow", "a dog sitting on snow"]
LONGER = ["a cat sitting on snow", "a tiger sitting on snow"]  # five tokens where one was
ROWS = Rows.one_source(targets=1)
BLEND = {"source": ["cat"], "target": ["dog"], "tokens": None, "threshold": 0.8}

# Per method its usual options here, and for every field of the method one that differs.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prompt-to-prompt": (
        {"blend": BLEND},
        {
            "edit": "replace",
            "cross": 0.4,
            "self_attention": 0.9,
            "cross_words": (("snow", 0.0, 0.2),),
            "reweight": (("dog", 3.0),),
            "blend": None,
            "self_tokens": 1024,
            "as_published": True,
        },
    ),
    "plug-and-play": (
        {},
        {
            "features": 0.4,
            "attention": 0.9,
            "block": "up_blocks.2.resnets.1",
            "layers": (12, 13),
            "source": "own",
        },
    ),
    "style-aligned": (
        {},
        {"schedule": Schedule(start_layer=8), "queries": False, "keys": False},
    ),
    "unified": ({}, {"cross": 0.3, "rigid": 0.7, "start_layer": 8}),
}
BLENDS: dict[str, Any] = {
    "source": ["snow"],
    "target": ["sitting"],
    "threshold": 0.6,
    "begin": 0.6,
    "tokens": 256,
}


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_models.sd()


def made(
    pipe: DiffusionPipeline,
    name: str,
    options: dict[str, Any],
    side: int = 8,
    prompts: Sequence[str] = tuple(PROMPTS),
) -> torch.Tensor:
    with method_named(name, **options).attach(pipe, ROWS, prompts=prompts):
        return tiny_models.run(pipe, list(prompts), steps=4, size=(side, side))


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_changes_the_target_and_not_the_source(
    pipe: DiffusionPipeline, name: str
) -> None:
    usual, changes = CHANGES[name]
    assert {one.name for one in fields(METHODS[name])} == set(changes)  # type: ignore[arg-type]
    side = 32 if "blend" in usual else 8  # maps of 2x2 would be one whole after a blend's pooling
    base = made(pipe, name, usual, side)
    for option, value in changes.items():
        if option == "as_published":  # the same wherever words have as many tokens
            continue
        other = made(pipe, name, usual | {option: value}, side)
        assert torch.equal(other[0], base[0]), option
        assert (other[1] - base[1]).abs().max() > 1e-4 * base.abs().max(), option


def test_the_published_alignment_is_another_where_a_word_has_more_tokens(
    pipe: DiffusionPipeline,
) -> None:
    name, edit = "prompt-to-prompt", {"edit": "replace"}
    base = made(pipe, name, edit, prompts=LONGER)
    other = made(pipe, name, edit | {"as_published": True}, prompts=LONGER)
    assert torch.equal(other[0], base[0])
    assert (other[1] - base[1]).abs().max() > 1e-4 * base.abs().max()


def test_every_option_of_a_local_blend_changes_the_target(pipe: DiffusionPipeline) -> None:
    base = made(pipe, "prompt-to-prompt", {"blend": BLEND}, 32)
    for option, value in BLENDS.items():
        other = made(pipe, "prompt-to-prompt", {"blend": BLEND | {option: value}}, 32)
        assert torch.equal(other[0], base[0]), option
        assert (other[1] - base[1]).abs().max() > 1e-4 * base.abs().max(), option
