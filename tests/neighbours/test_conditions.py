"""ControlNet and T2I-Adapter with a condition of each image's own, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks, without_condition
from masactrl.errors import RowsError, UnsupportedPipeline
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from torch import Tensor

# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")
PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
PIPES = {
    "controlnet": (tiny_models.sd_controlnet, 10),
    "adapter": (tiny_models.sd_adapter, 10),
    "sdxl controlnet": (tiny_models.sdxl_controlnet, 44),
}


@pytest.fixture(scope="module", params=PIPES)
def case(request: pytest.FixtureRequest) -> tuple[Any, MasaCtrl]:
    make, layer = PIPES[request.param]
    return make(), MasaCtrl(schedule=Schedule(start_step=1, start_layer=layer))


def picture(seed: int) -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def run(pipe: Any, *seeds: int, prompts: list[str] = PROMPTS, **options: Any) -> Tensor:
    pictures = torch.cat([picture(seed) for seed in seeds])
    return tiny_models.run(pipe, prompts, image=pictures, **options)


def difference(one: Tensor, other: Tensor) -> list[float]:
    return ((one - other).abs().amax(dim=(1, 2, 3)) / one.abs().max()).tolist()


def test_each_row_has_its_own_condition(case: tuple[Any, MasaCtrl]) -> None:
    pipe, control = case
    plain = run(pipe, 1, 2)
    with control.attach(pipe, PAIR) as attached:
        edited = run(pipe, 1, 2)
        other_target = run(pipe, 1, 3)
        other_source = run(pipe, 3, 2)
    assert attached.report.steps == (1, 2)
    source, target = difference(edited, plain)
    assert source < 1e-6  # the source is untouched
    assert target > 2e-3  # the control acts
    source, target = difference(edited, other_target)
    assert source < 1e-6
    assert target > 2e-2  # the target's condition acts
    source, target = difference(edited, other_source)
    assert source > 2e-2
    assert target > 1e-4  # and the target reads the changed source
    assert torch.equal(run(pipe, 1, 2), plain)


def test_guidance_off(case: tuple[Any, MasaCtrl]) -> None:
    pipe, control = case
    plain = run(pipe, 1, 2, guidance=1.0)
    with control.attach(pipe, PAIR):
        edited = run(pipe, 1, 2, guidance=1.0)
    source, target = difference(edited, plain)
    assert source < 1e-6
    assert target > 1e-4


def test_the_source_may_have_no_condition(case: tuple[Any, MasaCtrl]) -> None:
    pipe, control = case
    conditioned = run(pipe, 1, 2)
    with without_condition(pipe, images=2):
        mixed = run(pipe, 1, 2)
        assert torch.equal(run(pipe, 5, 2), mixed)  # what it would have been does not matter
    source, target = difference(mixed, conditioned)
    assert source > 2e-2
    assert target < 1e-6
    with without_condition(pipe, images=2), control.attach(pipe, PAIR):
        edited = run(pipe, 1, 2)
    source, target = difference(edited, mixed)
    assert source < 1e-6
    assert target > 1e-3
    assert torch.equal(run(pipe, 1, 2), conditioned)


def test_no_condition_is_the_network_without_the_controlnet() -> None:
    plain, pipe = tiny_models.sd(), tiny_models.sd_controlnet()
    with without_condition(pipe, images=2, unconditioned=(0, 1)):
        silenced = run(pipe, 1, 2)
    assert max(difference(silenced, tiny_models.run(plain, PROMPTS))) < 1e-5


@pytest.mark.parametrize("make", [tiny_models.sd_controlnet, tiny_models.sd_adapter])
def test_several_images_of_a_prompt_whose_source_has_no_condition(make: Any) -> None:
    """Images [source, source, target, target]: both sources go without, both targets read them."""
    pipe, control = make(), MasaCtrl(schedule=Schedule(start_step=1, start_layer=10))
    rows = Rows.one_source(targets=1, images_per_prompt=2)
    starts = torch.cat([tiny_models.noise(1, seed=seed) for seed in (0, 1)] * 2)
    both = {"num_images_per_prompt": 2, "latents": starts}
    # One picture for both prompts: diffusers hands a T2I-Adapter's features to the wrong images.
    conditioned = run(pipe, 2, 2, **both)
    with without_condition(pipe, images=4, unconditioned=(0, 1)):
        mixed = run(pipe, 2, 2, **both)
        with control.attach(pipe, rows):
            edited = run(pipe, 2, 2, **both)
    changed = difference(mixed, conditioned)
    assert min(changed[:2]) > 2e-2
    assert max(changed[2:]) < 1e-6
    acted = difference(edited, mixed)
    assert max(acted[:2]) < 1e-6
    assert min(acted[2:]) > 1e-3
    for copy in range(2):
        with without_condition(pipe, images=2), control.attach(pipe, PAIR):
            alone = run(pipe, 2, 2, latents=starts[[copy, copy]])
        assert max(difference(alone, edited[copy::2])) < 1e-4
    assert torch.equal(run(pipe, 2, 2, **both), conditioned)


@pytest.mark.parametrize("form", ["union", "words", "given"])
def test_every_form_with_a_controlnet_and_a_source_without(form: str) -> None:
    pipe, half = tiny_models.sd_controlnet(), torch.tensor([[1.0, 0.0]])
    masks: Any = {
        "words": WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4),
        "given": GivenMasks(images=(half, half)),
    }
    control = MasaCtrl(
        schedule=Schedule(start_step=1, start_layer=10),
        form="union" if form == "union" else "replace",
        masks=masks.get(form),
    )
    with without_condition(pipe, images=2):
        mixed = run(pipe, 1, 2)
        with control.attach(pipe, PAIR):
            edited, other = run(pipe, 1, 2), run(pipe, 1, 3)
        assert torch.equal(run(pipe, 1, 2), mixed)
    assert difference(edited, mixed)[0] < 1e-5
    assert difference(edited, mixed)[1] > 1e-3
    assert difference(edited, other)[1] > 2e-2


def test_guess_mode_gives_the_controlnet_half_the_rows() -> None:
    pipe, control = tiny_models.sd_controlnet(), MasaCtrl(schedule=Schedule(start_layer=10))
    plain = run(pipe, 1, 2, guess_mode=True)
    with without_condition(pipe, images=2):
        mixed = run(pipe, 1, 2, guess_mode=True)
    assert difference(mixed, plain)[0] > 1e-2
    assert difference(mixed, plain)[1] < 1e-6
    with control.attach(pipe, PAIR):
        edited = run(pipe, 1, 2, guess_mode=True)
    assert difference(edited, plain)[0] < 1e-6
    assert difference(edited, plain)[1] > 1e-3


def test_bad_input() -> None:
    with (
        pytest.raises(UnsupportedPipeline, match="no ControlNet and no T2I-Adapter"),
        without_condition(tiny_models.sd(), images=2),
    ):
        pass
    pipe = tiny_models.sd_controlnet()
    with (
        pytest.raises(RowsError, match="images 0 to 1"),
        without_condition(pipe, images=2, unconditioned=(2,)),
    ):
        pass
    with pytest.raises(RowsError, match="no multiple of the 3"), without_condition(pipe, images=3):
        run(pipe, 1, 2)
