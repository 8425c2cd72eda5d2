"""Every option of inversion and edit changes the picture, and what cannot be is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from editing_parts import MASKS, TARGETS, WORDS, half_mask, outcome, relative

from masactrl.errors import ConfigError, MaskError, ScheduleError
from masactrl.runs.invert import EditMasks, EditRequest

if TYPE_CHECKING:
    import torch
    from editing_parts import Inverted


# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


INVERSION_CHANGES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {"source_prompt": "a cat"}),
    ({}, {"steps": 4}),
    ({}, {"method": "ddim"}),
    ({}, {"replay": False}),
    ({}, {"fresh_steps": 1}),
    ({"fresh_steps": 1}, {"seed": 1}),
    ({"source_prompt": "a cat"}, {"guidance_scale": 3.0}),
    ({"method": "fixed-point"}, {"iterations": 2}),
    ({"method": "edit-friendly"}, {"seed": 1}),
    ({"method": "edit-friendly"}, {"noise_shift": 200}),
    ({"method": "virtual"}, {"seed": 1}),
    ({"method": "null-text", "source_prompt": "a cat", "iterations": 1}, {"iterations": 2}),
)


@pytest.fixture(scope="module")
def target(inverted: Inverted) -> Callable[[dict[str, Any]], torch.Tensor]:
    """The target after an inversion with these options; made once."""
    made: dict[str, torch.Tensor] = {}

    def of(options: dict[str, Any]) -> torch.Tensor:
        key = repr(sorted(options.items()))
        if key not in made:
            request = EditRequest(target_prompts=TARGETS[:1], compare=False, mode="joint")
            made[key] = outcome(inverted(**options), request).controlled
        return made[key]

    return of


@pytest.mark.parametrize(("base", "change"), INVERSION_CHANGES, ids=str)
def test_every_option_of_the_inversion_changes_the_target(
    target: Callable[[dict[str, Any]], torch.Tensor], base: dict[str, Any], change: dict[str, Any]
) -> None:
    assert relative(target(base), target(base | change)) > 1e-5


EDIT_CHANGES: tuple[Callable[[EditRequest], EditRequest], ...] = tuple(
    lambda request, change=change: replace(request, **change)
    for change in (
        {"target_prompts": TARGETS[1:]},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"negative_prompt": "a bird"},
        {"start_step": 0},
        {"start_layer": 12},
        {"form": "union"},
        {"strength": 0.5},
        {"strength": 0.0},
        {"masks": MASKS},
        {"masks": EditMasks(source=half_mask("right"), targets=half_mask("right"))},
        {"masks": MASKS, "keep_background": True},
        {"masks": EditMasks(targets="dog", threshold=0.4)},
        {"masks": EditMasks(source=3, targets="dog", threshold=0.4)},
        {"masks": EditMasks(targets="dog", threshold=0.8)},
    )
)


def test_every_option_of_the_edit_changes_the_target(inverted: Inverted) -> None:
    session = inverted()
    base = EditRequest(target_prompts=TARGETS[:1], compare=False, mode="joint")
    results = [outcome(session, base).controlled]
    results += [outcome(session, change(base)).controlled for change in EDIT_CHANGES]
    for number, one in enumerate(results):
        for other in results[:number]:
            assert relative(one, other) > 1e-5, number
    alone = outcome(session, EditRequest(target_prompts=TARGETS[:1], strength=0.0, mode="joint"))
    assert alone.uncontrolled is not None
    assert relative(alone.controlled, alone.uncontrolled) < 1e-5


@pytest.mark.parametrize(
    ("inversion", "edit", "error", "sentence"),
    [
        ({}, {"target_prompts": ()}, ConfigError, "no target prompt"),
        ({}, {"target_prompts": "a dog"}, ConfigError, "not one string"),
        ({}, {"target_prompts": (" ",)}, ConfigError, "Target prompt 1 is empty"),
        ({}, {"start_step": 3}, ScheduleError, "0 to 2"),
        ({}, {"start_layer": 16}, ScheduleError, "0 to 15"),
        ({}, {"start_step": -1}, ConfigError, "accepted is 0 and more"),
        ({}, {"guidance_scale": 0.5}, ConfigError, "accepted is 1"),
        ({}, {"strength": 2.0}, ConfigError, "accepted is 0 to 1"),
        ({}, {"mode": "fast"}, ConfigError, "accepted are ahead, cached, joint"),
        ({}, {"keep": "cloud"}, ConfigError, "accepted are device, memory, disk"),
        ({}, {"form": "mix"}, ConfigError, "accepted are replace, union"),
        ({}, {"keep_background": True}, MaskError, "needs masks"),
        ({}, {"masks": EditMasks(source=np.ones((9, 30)))}, MaskError, "same proportions"),
        ({}, {"masks": WORDS}, MaskError, "2 target masks were given for 1 targets"),
        ({"method": "magic"}, {}, ConfigError, "accepted are direct, one-pass, ddim"),
        ({"steps": 0}, {}, ConfigError, "accepted is 1 to 1000"),
        ({"seed": 1}, {}, ConfigError, "direct has no use for it"),
        ({"seed": -1, "method": "virtual"}, {}, ConfigError, "accepted is 0 to"),
        ({"iterations": 2}, {}, ConfigError, "fixed-point and null-text"),
        ({"iterations": 0, "method": "null-text"}, {}, ConfigError, "at least 1"),
        ({"fresh_steps": 3}, {}, ConfigError, "accepted is 0 to 2"),
        ({"noise_shift": 200}, {}, ConfigError, "belongs to edit-friendly inversion; direct has"),
        ({"method": "edit-friendly", "noise_shift": 999}, {}, ConfigError, "accepted is 0 to 998"),
        ({"fit": "squash"}, {}, ConfigError, "accepted are auto, keep"),
        ({"guidance_scale": 0.0}, {}, ConfigError, "accepted is 1"),
        ({"method": "null-text"}, {}, ConfigError, "needs the source prompt"),
        ({"method": "negative-prompt"}, {}, ConfigError, "there is none"),
        ({"method": "virtual", "replay": False}, {}, ConfigError, "leave it on"),
        (
            {"method": "null-text", "source_prompt": "a cat", "guidance_scale": 1.0},
            {},
            ConfigError,
            "guidance 1 is none",
        ),
    ],
)
def test_what_cannot_be_is_said(
    inverted: Inverted,
    inversion: dict[str, Any],
    edit: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        inverted(**inversion).edit(EditRequest(**{"target_prompts": TARGETS[:1], **edit}))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "No mask was given"),
        ({"source": "cat", "targets": half_mask("left")}, "pictures or words"),
        ({"targets": half_mask("left")}, "The source has no mask"),
        ({"source": "cat"}, "Name the subject of the targets"),
    ],
)
def test_masks_check_themselves(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MaskError, match=sentence):
        EditMasks(**options)
