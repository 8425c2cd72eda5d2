"""The identity error: the distance it is, what it does not depend on, and what it tells apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from masactrl.bench.puppet_truth import measure_truth
from masactrl.puppets.colour import lab_distance, srgb_to_lab
from masactrl.puppets.identity import (
    NO_ANIMAL,
    SAME,
    colour_distance,
    colours_shown,
    identity,
)
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import sample_scenes
from masactrl.puppets.training.data import HELD_OUT_SEED


def one(colour: tuple[float, float, float], other: tuple[float, float, float]) -> torch.Tensor:
    """A picture (1, 3, 16, 16) whose left half has one colour and its right half another."""
    picture = torch.empty(1, 3, 16, 16)
    picture[..., :8] = torch.tensor(colour)[:, None, None]
    picture[..., 8:] = torch.tensor(other)[:, None, None]
    return picture


WHOLE = torch.ones(1, 1, 16, 16)
BLUE, ORANGE, GREY = (0.2, 0.4, 0.8), (0.9, 0.5, 0.1), (0.5, 0.5, 0.5)


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(colour_distance(colours_shown(first, WHOLE), colours_shown(second, WHOLE)))


@pytest.mark.parametrize(("first", "second"), [(BLUE, ORANGE), (BLUE, GREY), (GREY, ORANGE)])
def test_animals_of_one_colour_are_as_far_apart_as_their_colours(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> None:
    apart = lab_distance(srgb_to_lab(torch.tensor(first)), srgb_to_lab(torch.tensor(second)))
    assert distance(one(first, first), one(second, second)) == pytest.approx(float(apart), rel=0.03)


def test_where_a_colour_is_and_what_it_is_called_does_not_count() -> None:
    assert distance(one(BLUE, ORANGE), one(ORANGE, BLUE)) == 0
    assert distance(one(BLUE, ORANGE), one(BLUE, ORANGE)) == 0
    assert distance(one(BLUE, ORANGE), one(BLUE, BLUE)) > SAME


def test_half_of_the_animal_in_another_colour_is_half_of_the_distance() -> None:
    whole = distance(one(BLUE, BLUE), one(ORANGE, ORANGE))
    assert distance(one(BLUE, BLUE), one(BLUE, ORANGE)) == pytest.approx(whole / 2, rel=0.05)


def test_a_sum_over_pixels_says_the_same() -> None:
    """Against the definition: sorted projections of equally many pixels, pair by pair."""
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.rand(1, 3, 8, 8, generator=generator) for _ in range(2))
    whole = torch.ones(1, 1, 8, 8)
    a, b = (srgb_to_lab(p.movedim(1, -1)).reshape(-1, 3) for p in (first, second))
    u = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=1)
    wanted = 2 * ((a @ u.T).sort(0).values - (b @ u.T).sort(0).values).abs().mean()
    found = colour_distance(colours_shown(first, whole), colours_shown(second, whole))
    assert float(found) == pytest.approx(float(wanted), rel=0.05)


def test_a_picture_without_an_animal_is_far_from_all() -> None:
    shown = colours_shown(one(BLUE, ORANGE), WHOLE)
    nothing = colours_shown(one(BLUE, ORANGE), 0 * WHOLE)
    assert float(colour_distance(shown, nothing)) == NO_ANIMAL
    thin = torch.zeros(1, 1, 16, 16)
    thin[..., 3, 3] = 1  # nothing is left of it without its outline
    assert bool(colours_shown(one(BLUE, ORANGE), thin).isfinite().all())


def test_another_action_is_the_same_animal_and_another_animal_is_not() -> None:
    inspector = Inspector.load()
    scenes = sample_scenes(8, seed=HELD_OUT_SEED + 60, close_up=0.0)
    acting = [scene.acting("jumping") for scene in scenes]
    swapped = [
        replace(scene, identity=replace(other.identity, species=scene.identity.species))
        for scene, other in zip(acting, scenes[1:] + scenes[:1], strict=True)
    ]
    was, same, other = (inspector.read(render(s, 256).image) for s in (scenes, acting, swapped))
    assert bool((identity(was, same).error <= SAME).all())
    assert bool((identity(was, other).error > SAME).all())
    assert float(identity(was, was).error.max()) == 0


def test_the_truth_is_measured() -> None:
    rows = measure_truth(Inspector.load(), limit=6)
    assert list(rows) == ["same scene, otherwise", "close-up of it", "another animal"]
    same, other = (rows[name].figures() for name in ("same scene, otherwise", "another animal"))
    assert (same["pairs"], other["pairs"]) == (10, 40)
    assert same["the same animal"] >= 0.9
    assert other["the same animal"] <= 0.05
