"""Numbers at the door: of any kind that is whole or finite, kept as Python's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest
import torch

from masactrl import EditRequest, GenerateRequest, InversionRequest
from masactrl.attention import Rows, Schedule
from masactrl.errors import ConfigError, MasaCtrlError, RowsError, ScheduleError
from masactrl.inversion import INVERSIONS
from masactrl.methods import MasaCtrl
from masactrl.methods.local_blend import LocalBlend
from masactrl.methods.prompt_to_prompt import PromptToPrompt
from masactrl.runs.request import sorted_pairs
from masactrl.settings.checks import settle
from masactrl.studies.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    whole: int = 1
    number: float = 0.5
    switch: bool = True
    perhaps: int | None = None
    several: tuple[int, ...] = ()
    pair: tuple[float, float] | None = None
    words: str = "2"

    def __post_init__(self) -> None:
        settle(self)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("whole", np.int64(7), 7),
        ("whole", np.uint8(7), 7),
        ("whole", 7.0, 7),
        ("whole", np.float32(7), 7),
        ("whole", torch.tensor(7), 7),
        ("whole", np.array(7), 7),
        ("number", np.float32(0.5), 0.5),
        ("number", torch.tensor(0.5), 0.5),
        ("number", 5, 5),
        ("switch", np.bool_(False), False),
        ("perhaps", None, None),
        ("perhaps", np.int16(3), 3),
        ("several", np.arange(3), (0, 1, 2)),
        ("several", [1.0, torch.tensor(2)], (1, 2)),
        ("pair", (np.float64(0.25), 1), (0.25, 1)),
    ],
)
def test_values_become_pythons_own(field: str, given: Any, kept: Any) -> None:
    value = getattr(Sample(**{field: given}), field)
    assert value == kept
    assert type(value) is type(kept)
    json.dumps(asdict(Sample(**{field: given})))  # and a recipe can hold them


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("whole", 2.5),
        ("whole", True),
        ("whole", np.bool_(True)),
        ("whole", "3"),
        ("whole", None),
        ("whole", float("inf")),
        ("whole", np.arange(3)),
        ("number", float("nan")),
        ("number", False),
        ("number", 1j),
        ("switch", 1),
        ("several", 3),
        ("several", "12"),
        ("several", (1, 2.5)),
        ("pair", (0.1, "late")),
    ],
)
def test_others_are_refused_by_name(field: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field}=.*was given"):
        Sample(**{field: wrong})


def test_every_door_settles_its_numbers() -> None:
    usual: dict[str, Any] = {"source_prompt": "a", "target_prompts": ("b",)}
    one = GenerateRequest(
        **usual, seed=np.int64(7), steps=2.0, width=np.int32(64), guidance_scale=np.float32(4)
    )
    assert [type(v) for v in (one.seed, one.steps, one.width, one.guidance_scale)] == [
        int,
        int,
        int,
        float,
    ]
    assert type(InversionRequest(steps=np.int64(4)).steps) is int
    assert type(EditRequest(target_prompts=("a",), start_step=np.int64(1)).start_step) is int
    assert Schedule(steps=np.arange(2)).steps == (0, 1)
    assert Rows(images=np.int64(1), reads=((0,),)).images == 1
    assert Axes(start_steps=np.arange(2)).start_steps == (0, 1)  # type: ignore[arg-type]
    assert MasaCtrl(schedule=Schedule.never(), strength=np.float32(0.5)).strength == 0.5
    assert INVERSIONS["fixed-point"](iterations=np.int64(3)).iterations == 3
    assert sorted_pairs({"features": np.float64(0.5), "layers": (np.int64(4),)}) == (
        ("features", 0.5),
        ("layers", (4,)),
    )


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: GenerateRequest(source_prompt="a", target_prompts=("b",), steps=2.5), ConfigError),
        (lambda: GenerateRequest(source_prompt="a", target_prompts=("b",), seed=True), ConfigError),
        (lambda: InversionRequest(seed="7", method="virtual"), ConfigError),
        (lambda: EditRequest(target_prompts=("a",), compare=1), ConfigError),
        (lambda: Schedule(start_step=1.5), ScheduleError),
        (lambda: Rows(images=1.5, reads=((0,),)), RowsError),
        (lambda: PromptToPrompt(self_attention="x"), ConfigError),
        (lambda: PromptToPrompt(cross=(0.9, 0.2)), ConfigError),
        (lambda: PromptToPrompt(cross=(0.1, 0.2, 0.3)), ConfigError),
        (lambda: PromptToPrompt(cross_words=(("dog", 0.4),)), ConfigError),
        (lambda: PromptToPrompt(cross_words=("dog",)), ConfigError),
        (lambda: PromptToPrompt(cross_words=(("dog", 0.1, "late"),)), ConfigError),
        (lambda: PromptToPrompt(edit="reweight", reweight={"cat": 5.0}), ConfigError),
        (lambda: PromptToPrompt(reweight=(("cat",),)), ConfigError),
        (lambda: PromptToPrompt(reweight=((3, 5.0),)), ConfigError),
        (lambda: PromptToPrompt(self_tokens=2.5), ConfigError),
        (lambda: PromptToPrompt(blend={"source": "cat"}), ConfigError),
        (lambda: PromptToPrompt(blend={"source": "a", "target": "b", "k": 1}), ConfigError),
        (lambda: PromptToPrompt(blend="cat"), ConfigError),
        (lambda: LocalBlend(source=("a",), target=("b",), threshold=(0.3, 0.3)), ConfigError),
        (lambda: LocalBlend(source=(3,), target=("b",)), ConfigError),
        (lambda: LocalBlend(source="a", target="b", subtract_threshold=0.0), ConfigError),
    ],
)
def test_values_of_other_kinds_are_refused_at_construction(
    make: Any, error: type[MasaCtrlError]
) -> None:
    with pytest.raises(error):
        make()
