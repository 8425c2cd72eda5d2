"""Methods given as objects: what requests have words for, what only the object says, and both."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from editing_parts import MASKS, STEPS, WORDS, half_mask, random_picture

from masactrl.attention import GivenMasks, Schedule
from masactrl.errors import ConfigError, ScheduleError
from masactrl.methods import FixedSeed, MasaCtrl, PlugAndPlay, PromptToPrompt, SDEdit, StyleAligned
from masactrl.rerun.edit import edit_of
from masactrl.runs.invert import EditMasks, EditRequest, invert
from masactrl.runs.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from editing_parts import Inverted

    from masactrl.runs.edit_result import EditResult
    from masactrl.runs.session import EditSession

# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")

REQUEST = EditRequest(target_prompts=("a dog running",), compare=False)


def picture_of(result: EditResult) -> bytes:
    return result.targets[0].controlled.tobytes()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (PlugAndPlay(features=0.7), {"method": "plug-and-play", "features": 0.7}),
        (SDEdit(strength=0.7), {"method": "sdedit", "strength": 0.7}),
        (PromptToPrompt(self_attention=0.0), {"method": "prompt-to-prompt", "self_attention": 0.0}),
        (FixedSeed(), {"method": "fixed-seed"}),
    ],
)
def test_an_object_is_the_method_and_options_that_name_it(
    inverted: Inverted, method: Any, words: dict[str, Any]
) -> None:
    session = inverted(source_prompt="a cat")
    options = {name: value for name, value in words.items() if name != "method"}
    named = EditRequest(
        target_prompts=REQUEST.target_prompts,
        compare=False,
        method=words["method"],
        method_options=options,
    )
    made = session.edit(REQUEST, method=method)
    assert picture_of(made) == picture_of(session.edit(named))
    assert made.recipe("sheet") == session.edit(named).recipe("sheet")
    assert session.plan(REQUEST, method=method) == session.plan(named)


def test_s_and_l_of_an_object_are_those_of_a_request(session: EditSession) -> None:
    method = MasaCtrl(
        schedule=Schedule(fraction=(0.6, 1.0), start_layer=12), form="union", strength=0.8
    )
    made = session.edit(REQUEST, method=method)
    said = made.request
    assert (said.start_step, said.start_layer, said.form, said.strength, said.control) == (
        2,
        12,
        "union",
        0.8,
        None,
    )
    named = EditRequest(
        target_prompts=REQUEST.target_prompts,
        compare=False,
        start_step=2,
        start_layer=12,
        form="union",
        strength=0.8,
    )
    assert picture_of(made) == picture_of(session.edit(named))
    nothing = session.edit(REQUEST, method=MasaCtrl(schedule=Schedule.never()))
    assert nothing.request.strength == 0
    plain = picture_of(session.edit(REQUEST, method="fixed-seed"))
    # The batches differ in size, and on some processors the last bit with them.
    levels = zip(picture_of(nothing), plain, strict=True)
    assert max(abs(one - other) for one, other in levels) <= 1


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(places=("encoder",)),
        Schedule(steps=(0, 2), layers=(3, 15)),
        Schedule(fraction=(0.0, 0.6), scales=(1,)),
    ],
    ids=str,
)
def test_other_windows_act_joint_and_cached_alike(session: EditSession, schedule: Schedule) -> None:
    method = MasaCtrl(schedule=schedule)
    cached = session.edit(replace(REQUEST, half=False), method=method)
    joint = session.edit(replace(REQUEST, mode="joint"), method=method)
    assert cached.request.control == method
    others = {picture_of(session.edit(REQUEST)), picture_of(session.edit(REQUEST, method="sdedit"))}
    assert picture_of(cached) not in others
    apart = [a - b for a, b in zip(picture_of(cached), picture_of(joint), strict=True)]
    assert max(map(abs, apart)) <= 1
    assert sum(map(abs, apart)) < 0.005 * len(apart)  # rounding to 256 levels
    recipe = Recipe.parse(cached.recipe("target1-controlled").to_json())
    with pytest.raises(ConfigError, match=r"control given as an object \(MasaCtrl\)"):
        edit_of(recipe)


def test_a_background_by_words_stays_also_after_the_last_controlled_step(
    inverted: Inverted,
) -> None:
    session = inverted(source_prompt="a cat")
    masks = EditMasks(source="cat", targets=("dog",), threshold=0.4)
    request = EditRequest(
        target_prompts=REQUEST.target_prompts, compare=False, masks=masks, keep_background=True
    )
    early = MasaCtrl(schedule=Schedule(steps=(0, 1), start_layer=None, layers=(10, 11, 12)))
    made = session.edit(request, method=early)
    free = EditRequest(target_prompts=REQUEST.target_prompts, compare=False, masks=masks)
    assert made.mask is not None
    assert picture_of(made) != picture_of(session.edit(free, method=early))


@dataclass(frozen=True)
class Watching:
    """Somebody else's method: it does nothing but look."""

    name: str = "watching"
    start: Any = None

    @contextmanager
    def attach(self, pipeline: Any, rows: Any, *, prompts: Any = None) -> Iterator[Any]:
        assert len(prompts) == rows.images
        with FixedSeed().attach(pipeline, rows, prompts=prompts) as attached:
            yield attached


def test_a_method_of_somebody_else_s(session: EditSession) -> None:
    request = EditRequest(target_prompts=("a dog running",))
    made = session.edit(request, method=Watching())
    target = made.targets[0]
    assert target.uncontrolled is not None
    assert target.controlled.tobytes() == target.uncontrolled.tobytes()
    assert (made.request.method, made.features, made.to_sheet().width > 0) == (
        "watching",
        "joint",
        True,
    )
    assert made.recipe("sheet").request["control"] == "Watching"
    aligned = session.edit(request, method=StyleAligned(schedule=Schedule(start_layer=12)))
    assert aligned.recipe("sheet").request["control"] == "StyleAligned"
    assert aligned.targets[0].controlled.tobytes() != target.controlled.tobytes()


@pytest.mark.parametrize(
    ("method", "values", "error", "sentence"),
    [
        (
            MasaCtrl(schedule=Schedule(), masks=GivenMasks(images=(half_mask("left"),) * 2)),
            {},
            ConfigError,
            "Masks of an edit belong to its request",
        ),
        (MasaCtrl(schedule=Schedule(start_layer=16)), {}, ScheduleError, "0 to 15"),
        (MasaCtrl(schedule=Schedule(steps=(STEPS,))), {}, ScheduleError, "0 to 2"),
        (PlugAndPlay(), {"masks": MASKS}, ConfigError, "masks belongs to the method masactrl"),
        (Watching(), {"start_step": 1}, ConfigError, "start_step belongs to the method masactrl"),
        (
            MasaCtrl(schedule=Schedule(places=("encoder",))),
            {"masks": EditMasks(targets=WORDS.targets[0])},
            ConfigError,
            "runs before any attention map",
        ),
    ],
)
def test_what_cannot_be_is_said(
    session: EditSession,
    method: Any,
    values: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    request = EditRequest(target_prompts=("a dog",), **values)
    with pytest.raises(error, match=sentence):
        session.edit(request, method=method)


def test_a_picture_that_was_opened_takes_objects_too(session: EditSession) -> None:
    again = invert(session.model, random_picture())
    method = MasaCtrl(schedule=Schedule(places=("decoder",)))
    assert picture_of(again.edit(REQUEST, method=method)) == picture_of(
        session.edit(REQUEST, method=method)
    )
