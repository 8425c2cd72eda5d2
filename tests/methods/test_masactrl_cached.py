"""Sources recorded once, targets later: the same pictures as all in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tiny_models
import torch

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

SOURCES = ["a cat sitting", "a dog sitting"]
TARGETS = ["a cat running", "a dog jumping", "a red corgi"]
ACTIVE = Schedule(start_step=1, start_layer=10)
GENERATOR = torch.Generator().manual_seed(1)
MASKS = [torch.rand(16, 16, generator=GENERATOR) > 0.5 for _ in range(5)]
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_models.sd()


def controls(form: str, sources: int) -> tuple[MasaCtrl, MasaCtrl]:
    """The same control for the joint batch and for recorded sources."""
    if form == "given":
        given = tuple(MASKS[2 - sources :])
        joint, apart = (
            GivenMasks(images=given),
            GivenMasks(images=given[sources:], sources=given[:sources]),
        )
        return MasaCtrl(schedule=ACTIVE, masks=joint), MasaCtrl(schedule=ACTIVE, masks=apart)
    if form == "words":
        own, nouns = tuple(SOURCES[:sources]), ("cat", "dog")[:sources]
        targets, named = tuple(TARGETS), ("cat", "dog", "corgi")
        together = WordMasks(words=nouns + named, prompts=own + targets, threshold=0.4)
        parted = WordMasks(
            words=named,
            prompts=targets,
            source_words=nouns,
            source_prompts=own,
            threshold=0.4,
        )
        return MasaCtrl(schedule=ACTIVE, masks=together), MasaCtrl(schedule=ACTIVE, masks=parted)
    control = MasaCtrl(
        schedule=ACTIVE,
        form="union" if form == "union" else "replace",
        strength=0.7 if form == "strength" else 1.0,
    )
    return control, control


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("form", ["replace", "union", "strength", "given", "words"])
def test_joint_is_cached(
    pipe: StableDiffusionPipeline, form: str, sources: int, guidance: float
) -> None:
    joint, apart = controls(form, sources)
    prompts = SOURCES[:sources]
    with joint.attach(pipe, Rows.groups([(sources, 3)])) as attached:
        together = tiny_models.run(pipe, prompts + TARGETS, size=(16, 8), guidance=guidance)
    with apart.record(pipe, sources=sources) as source:
        recorded = tiny_models.run(pipe, prompts, size=(16, 8), guidance=guidance)
    rows = Rows.from_cache(targets=3, sources=sources)
    with apart.attach(pipe, rows, source=source) as later:
        targets = tiny_models.run(pipe, TARGETS, size=(16, 8), guidance=guidance)
    scale = together.abs().max()
    assert (recorded - together[:sources]).abs().max() / scale < 1e-4 / 2
    assert (targets - together[sources:]).abs().max() / scale < 1e-4 / 2
    assert later.touched == attached.touched
    with apart.attach(pipe, rows, source=source):  # any number of times
        again = tiny_models.run(pipe, TARGETS, size=(16, 8), guidance=guidance)
    assert torch.equal(again, targets)


def test_any_number_of_targets_from_one_recording(pipe: StableDiffusionPipeline) -> None:
    control = MasaCtrl(schedule=ACTIVE)
    with control.record(pipe) as source:
        tiny_models.run(pipe, SOURCES[:1])

    def targets(prompts: list[str]) -> Tensor:
        with control.attach(pipe, Rows.from_cache(targets=len(prompts)), source=source):
            return tiny_models.run(pipe, prompts)

    together = targets(TARGETS)
    for number, prompt in enumerate(TARGETS):
        assert torch.allclose(targets([prompt])[0], together[number], atol=1e-4)


@pytest.mark.parametrize("words", [False, True])
def test_several_images_of_a_prompt_read_one_recording(
    pipe: StableDiffusionPipeline, words: bool
) -> None:
    apart = controls("words", 1)[1] if words else MasaCtrl(schedule=ACTIVE)
    with apart.record(pipe) as source:
        tiny_models.run(pipe, SOURCES[:1], size=(16, 8))
    with apart.attach(pipe, Rows.from_cache(targets=3), source=source):
        once = tiny_models.run(pipe, TARGETS, size=(16, 8))
    masks = apart.masks.repeated(2) if isinstance(apart.masks, WordMasks) else None
    twice = MasaCtrl(schedule=ACTIVE, masks=masks)
    rows = Rows.from_cache(targets=3, images_per_prompt=2)
    with twice.attach(pipe, rows, source=source):
        both = tiny_models.run(pipe, TARGETS, size=(16, 8), num_images_per_prompt=2)
    for copy in range(2):
        assert (both[copy::2] - once).abs().max() / once.abs().max() < 1e-4


def test_half_precision_on_the_cpu(pipe: StableDiffusionPipeline) -> None:
    control = MasaCtrl(schedule=ACTIVE)
    with control.record(pipe) as full:
        tiny_models.run(pipe, SOURCES[:1])
    with control.record(pipe, dtype=torch.float16, device="cpu") as half:
        tiny_models.run(pipe, SOURCES[:1])
    assert half.nbytes * 2 == full.nbytes
    pictures = []
    for source in (full, half):
        with control.attach(pipe, Rows.from_cache(targets=3), source=source):
            pictures.append(tiny_models.run(pipe, TARGETS))
    assert (pictures[0] - pictures[1]).abs().max() / pictures[0].abs().max() < 1e-3


def test_a_second_recording_replaces_the_first(pipe: StableDiffusionPipeline) -> None:
    control = MasaCtrl(schedule=ACTIVE)
    with control.record(pipe) as source:
        tiny_models.run(pipe, SOURCES[:1], steps=5)
        tiny_models.run(pipe, SOURCES[:1])
    assert sorted(source.timesteps) == [1, 2]
    assert len(source) == 2 * 6


def test_recorded_and_batch_sources_side_by_side(pipe: StableDiffusionPipeline) -> None:
    """Image 1 reads both image 0 of the batch and the recorded source."""
    control = MasaCtrl(schedule=ACTIVE)
    with control.attach(pipe, Rows(images=3, reads=((0,), (1,), (1, 0)))):
        together = tiny_models.run(pipe, [*SOURCES, TARGETS[0]])
    with control.record(pipe) as source:
        tiny_models.run(pipe, SOURCES[:1])
    with control.attach(pipe, Rows(images=2, reads=((0,), (0, 2)), cached=1), source=source):
        apart = tiny_models.run(pipe, [SOURCES[1], TARGETS[0]])
    assert torch.allclose(apart, together[1:], atol=2e-4)
