"""A run whose network calls are replayed makes the same pictures, and every kind of call once.

There is no CUDA graph on a CPU: what is recorded is run again here, and all that it does in Python
is wiped out, as a graph would not repeat it.
"""

from __future__ import annotations

from collections.abc import Callable

import tiny_models as tiny
import torch
from torch.utils import _pytree

from masactrl.attention import Rows, Schedule, SourceFeatures
from masactrl.attention.graphs import GraphHook, replaying
from masactrl.attention.hooks import SelfAttentionHook
from masactrl.methods import MasaCtrl

PROMPTS = ["a cat sitting", "a cat running"]


class Again:
    """A capture whose replay computes into the tensors that the recorded call returned."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, run: Callable[[], object]) -> tuple[object, Callable[[], None]]:
        made = run()
        hooks = [one for one in _hooks_of(run) if one.recorded is not None]
        kept = [one.recorded for one in hooks]

        def replay() -> None:
            self.replays += 1
            fresh = run()
            places, values = _pytree.tree_leaves(made), _pytree.tree_leaves(fresh)
            for place, value in zip(places, values, strict=True):
                place.copy_(value)
            for place, hook in zip(kept, hooks, strict=True):
                place.copy_(hook.recorded)
            for hook in _hooks_of(run):
                hook.seen, hook.recorded = False, None

        return made, replay


def _hooks_of(run: Callable[[], object]) -> list[SelfAttentionHook]:
    cells = [cell.cell_contents for cell in run.__closure__ or ()]
    forward = next(cell for cell in cells if callable(cell))
    network = forward.__self__
    registries = (vars(one).get("_diffusers_hook") for one in network.modules())
    hooks = (hook for one in registries if one is not None for hook in one.hooks.values())
    return [hook for hook in hooks if isinstance(hook, SelfAttentionHook)]


def graphs() -> tuple[GraphHook, Again]:
    again = Again()
    return GraphHook(again, "cpu"), again


def test_joint_run_is_the_same_and_its_steps_are_replayed() -> None:
    pipe, control = tiny.sd(), MasaCtrl(schedule=Schedule(start_step=2, start_layer=10))

    def run() -> torch.Tensor:
        with control.attach(pipe, Rows.one_source(targets=1)):
            return tiny.run(pipe, PROMPTS, steps=6)

    expected = run()
    hook, again = graphs()
    with replaying(pipe.unet, hook):
        replayed = run()
    assert torch.equal(replayed, expected)
    assert hook.graphs == 2  # without control, and with
    assert again.replays == 4  # the first call of a kind runs as it is
    assert torch.equal(run(), expected)
    assert "forward" not in vars(pipe.unet)


def test_recorded_source_is_the_same() -> None:
    pipe, control = tiny.sd(), MasaCtrl(schedule=Schedule(start_step=1, start_layer=10))

    def run() -> tuple[torch.Tensor, SourceFeatures]:
        with control.record(pipe) as source:
            tiny.run(pipe, PROMPTS[:1], steps=5)
        with control.attach(pipe, Rows.from_cache(targets=1), source=source):
            return tiny.run(pipe, PROMPTS[1:], steps=5), source

    expected, source = run()
    hook, again = graphs()
    with replaying(pipe.unet, hook):
        replayed, other = run()
    assert torch.equal(replayed, expected)
    assert other.nbytes == source.nbytes
    assert again.replays == 6


def test_what_python_does_in_a_layer_is_not_replayed() -> None:
    pipe = tiny.sd()
    hook, again = graphs()
    pipe.unet.mid_block.register_forward_hook(lambda *_: None)
    with replaying(pipe.unet, hook):
        tiny.run(pipe, PROMPTS[:1], steps=4)
    assert not again.replays
