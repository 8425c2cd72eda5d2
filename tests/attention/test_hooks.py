"""Hooks come and go in any order without taking each other along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

from masactrl.attention.hooks import install
from masactrl.attention.observing import observed

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.steps import StepInfo


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Plus(ModelHook):
    """Adds to the output by replacing the forward."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def new_forward(self, _module: nn.Module, *args: Tensor) -> Tensor:
        return self.fn_ref.original_forward(*args) + self.amount


class Before(ModelHook):
    """Adds to the input."""

    def pre_forward(self, _module: nn.Module, x: Tensor) -> tuple[tuple[Tensor], dict[str, object]]:
        return (x + 100,), {}


ONE = torch.ones(1)


def test_nothing_is_left_behind() -> None:
    module = Double()
    before = dict(vars(module))
    installed = install(module, Plus(1), "ours")
    assert module(ONE) == 3
    installed.remove()
    assert vars(module) == before
    assert module(ONE) == 2
    installed.remove()  # twice is harmless


def test_a_registry_and_a_forward_that_were_there_stay() -> None:
    module = Double()
    HookRegistry.check_if_exists_or_initialize(module).register_hook(Plus(10), "theirs")
    before = dict(vars(module))
    install(module, Plus(1), "ours").remove()
    assert vars(module) == before
    assert module(ONE) == 12


@pytest.mark.parametrize("theirs", [Plus(10), Before()])
def test_a_later_hook_survives_our_leaving(theirs: ModelHook) -> None:
    alone = Double()
    HookRegistry.check_if_exists_or_initialize(alone).register_hook(theirs, "theirs")
    expected = alone(ONE)
    HookRegistry.check_if_exists_or_initialize(alone).remove_hook("theirs")

    module = Double()
    installed = install(module, Plus(1), "ours")
    HookRegistry.check_if_exists_or_initialize(module).register_hook(theirs, "theirs")
    assert module(ONE) == expected + 1
    installed.remove()
    assert module(ONE) == expected
    HookRegistry.check_if_exists_or_initialize(module).remove_hook("theirs")
    assert module(ONE) == 2


def test_two_of_ours_leave_in_either_order() -> None:
    for order in [(0, 1), (1, 0)]:
        module = Double()
        installed = [install(module, Plus(1), "first"), install(module, Plus(10), "second")]
        assert module(ONE) == 13
        installed[order[0]].remove()
        assert module(ONE) == 2 + (1, 10)[order[1]]
        installed[order[1]].remove()
        assert module(ONE) == 2


def test_accelerate_hooks_added_before_stay() -> None:
    module = add_hook_to_module(Double(), AlignDevicesHook(execution_device="cpu"))
    installed = install(module, Plus(1), "ours")
    assert module(ONE) == 3
    installed.remove()
    assert module(ONE) == 2
    assert module._hf_hook is not None
    assert isinstance(remove_hook_from_module(module), Double)


def test_accelerate_hooks_added_meanwhile_stay() -> None:
    module = Double()
    installed = install(module, Plus(1), "ours")
    add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    outer = module.forward
    assert module(ONE) == 3
    installed.remove()
    assert module.forward is outer
    assert module(ONE) == 2
    remove_hook_from_module(module)
    assert module(ONE) == 2
    assert "_hf_hook" not in vars(module)


def test_accelerate_hooks_taken_away_meanwhile_do_not_come_back() -> None:
    module = add_hook_to_module(Double(), AlignDevicesHook(execution_device="cpu"))
    installed = install(module, Plus(1), "ours")
    remove_hook_from_module(module)
    installed.remove()
    assert module(ONE) == 2
    assert not hasattr(module, "_hf_hook")


def test_observers_are_told_of_calls_by_position_and_by_name_while_they_are_attached() -> None:
    pipe = tiny_models.sd()
    told: list[tuple[str, int, int]] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def before(self, info: StepInfo, call: DenoiserCall) -> None:
            told.append((self.name, info.step, call.sample.shape[0]))

        def after(self) -> None:
            told.append((self.name, -1, 0))

    pipe.scheduler.set_timesteps(2)
    first, second = pipe.scheduler.timesteps
    latents, words = tiny_models.noise(3), torch.zeros(3, 77, tiny_models.TEXT_WIDTH)
    with observed(pipe, Told("a")), observed(pipe, Told("b")), torch.no_grad():
        pipe.unet(latents, first, words)
        pipe.unet(sample=latents, timestep=second, encoder_hidden_states=words)
    with torch.no_grad():
        pipe.unet(latents, first, words)
    calls = [[("b", k, 3), ("a", k, 3), ("a", -1, 0), ("b", -1, 0)] for k in (0, 1)]
    assert told == [*calls[0], *calls[1]]
