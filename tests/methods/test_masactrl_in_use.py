"""What goes wrong while a control is at work: it is noticed, said, and leaves no trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook

from masactrl.attention import GivenMasks, Rows, Schedule, SourceFeatures
from masactrl.errors import (
    ConfigError,
    ControlNotApplied,
    ControlWarning,
    RowsError,
    UnsupportedPipeline,
)
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
ACTIVE = Schedule(start_step=1, start_layer=10)
HALF = torch.tensor([[1.0, 0.0]])


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_models.sd()


@pytest.fixture(scope="module")
def plain(pipe: Any) -> Tensor:
    return tiny_models.run(pipe, PROMPTS)


def test_a_displaced_hook_is_noticed(pipe: Any, plain: Tensor) -> None:
    """diffusers drops our slot when a hook below it is removed."""

    class Below(ModelHook):
        pass

    attention = pipe.unet.up_blocks[3].attentions[0].transformer_blocks[0].attn1
    registry = HookRegistry.check_if_exists_or_initialize(attention)

    def displaced() -> None:
        registry.register_hook(Below(), "below")
        with MasaCtrl(schedule=ACTIVE).attach(pipe, PAIR):
            registry.remove_hook("below")
            tiny_models.run(pipe, PROMPTS)

    with pytest.raises(ControlNotApplied, match=r"layer 13 .*displaced"):
        displaced()
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


def test_a_self_attention_that_is_fed_from_elsewhere(pipe: Any) -> None:
    class Feeds(ModelHook):
        def pre_forward(self, _module: Any, *args: Any, **kwargs: Any) -> Any:
            return args, {**kwargs, "encoder_hidden_states": args[0]}

    attention = pipe.unet.up_blocks[3].attentions[0].transformer_blocks[0].attn1
    registry = HookRegistry.check_if_exists_or_initialize(attention)

    def fed() -> None:
        with MasaCtrl(schedule=ACTIVE).attach(pipe, PAIR):
            registry.register_hook(Feeds(), "feeds")
            tiny_models.run(pipe, PROMPTS)

    with pytest.raises(UnsupportedPipeline, match="called with encoder_hidden_states"):
        fed()
    registry.remove_hook("feeds")


def test_an_interrupted_run_without_control_raises_or_warns(pipe: Any) -> None:
    control = MasaCtrl(schedule=Schedule(start_step=2, start_layer=10))

    def stop(p: Any, _step: int, _t: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        p._interrupt = True
        return kwargs

    with (
        pytest.raises(ControlNotApplied, match=r"ended at step 0 of 3.*step \(2\)"),
        control.attach(pipe, PAIR),
    ):
        tiny_models.run(pipe, PROMPTS, callback_on_step_end=stop)

    def interrupted_then_whole() -> None:
        with control.attach(pipe, PAIR):
            tiny_models.run(pipe, PROMPTS, callback_on_step_end=stop)
            tiny_models.run(pipe, PROMPTS)

    with pytest.warns(ControlWarning, match="ended at step 0"):
        interrupted_then_whole()


def test_a_given_mask_that_vanishes_at_a_coarse_layer_is_reported(pipe: Any) -> None:
    thin = torch.zeros(64, 64)
    thin[1, 1] = 1.0
    control = MasaCtrl(
        schedule=Schedule(start_step=1, layers=(6,)), masks=GivenMasks(images=(HALF, thin))
    )
    with (
        pytest.warns(ControlWarning, match="An empty mask was used at step 1, layer 6 for image 1"),
        control.attach(pipe, PAIR) as attached,
    ):
        tiny_models.run(pipe, PROMPTS, size=(16, 16))
    assert not attached.report.masks[1, 6][1].any()


def test_a_recording_must_fit(pipe: Any) -> None:
    control = MasaCtrl(schedule=ACTIVE)
    with control.record(pipe) as source:
        tiny_models.run(pipe, PROMPTS[:1])
    rows = Rows.from_cache(targets=1)
    tests: list[tuple[dict[str, Any], str]] = [
        ({"guidance": 1.0}, "2 guidance branches.*this run has 1"),
        ({"size": (16, 8)}, "16 tokens, this run has"),
        ({"steps": 4}, "Step 1 was recorded at timestep"),
    ]
    for options, sentence in tests:
        with pytest.raises(ConfigError, match=sentence), control.attach(pipe, rows, source=source):
            tiny_models.run(pipe, PROMPTS[1:], **options)
    with (
        pytest.raises(RowsError, match="holds 1 sources but the rows expect 2"),
        control.attach(pipe, Rows.from_cache(targets=1, sources=2), source=source),
    ):
        pass
    with (
        pytest.raises(RowsError, match="holds 0 sources"),
        control.attach(pipe, rows, source=SourceFeatures()),
    ):
        pass


def test_no_report_before_the_first_run(pipe: Any) -> None:
    control = MasaCtrl(schedule=ACTIVE)
    with control.attach(pipe, PAIR) as attached:
        with pytest.raises(ControlNotApplied, match="has not run since"):
            _ = attached.report
        tiny_models.run(pipe, PROMPTS)
    assert attached.report.complete
