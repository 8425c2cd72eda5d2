from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from masactrl.errors import ConfigError
from masactrl.puppets.scene import (
    ACTIONS,
    COLOURS,
    FACINGS,
    PATTERNS,
    PLACES,
    SHOTS,
    SPECIES,
    Backdrop,
    Camera,
    Identity,
    Pose,
    colour_name,
    sample_scene,
    sample_scenes,
)

IDENTITY = Identity(
    species="cat",
    proportions=(1.0,) * 5,
    coat=(0.9, 0.5, 0.1),
    accent=(0.2, 0.2, 0.2),
    pattern="stripes",
    frequency=1.0,
    phase=0.5,
    angle=0.0,
    collar=None,
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"species": "unicorn"}, "unicorn"),
        ({"pattern": "tartan"}, "tartan"),
        ({"proportions": (1.0,) * 4}, "5 numbers"),
        ({"proportions": (1.0, 1.0, 1.0, 1.0, 1.3)}, "0.85"),
        ({"coat": (1.2, 0.0, 0.0)}, "coat"),
        ({"accent": (0.0, -0.1, 0.0)}, "accent"),
        ({"collar": (0.0, 0.0, 2.0)}, "collar"),
        ({"frequency": 2.0}, "frequency"),
        ({"phase": 1.5}, "phase"),
        ({"angle": 1.0}, "angle"),
        ({"coat": (float("nan"), 0.0, 0.0)}, "coat"),
    ],
)
def test_an_identity_outside_the_world_is_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(IDENTITY, **change)  # type: ignore[arg-type]


def test_pose_backdrop_and_camera_are_checked() -> None:
    with pytest.raises(ConfigError, match="flying"):
        Pose(action="flying", facing="left")
    with pytest.raises(ConfigError, match="up"):
        Pose(action="running", facing="up")
    with pytest.raises(ConfigError, match="jitter"):
        Pose(action="running", facing="left", jitter=(0.0,))
    with pytest.raises(ConfigError, match="moon"):
        Backdrop(place="moon")
    with pytest.raises(ConfigError, match="backdrop"):
        Backdrop(place="snow", parameters=(2.0,) * 10)
    with pytest.raises(ConfigError, match="aerial"):
        Camera(shot="aerial")
    with pytest.raises(ConfigError, match="offset"):
        Camera(offset=(0.0, 0.0))


def test_a_seed_means_the_same_scenes() -> None:
    assert sample_scenes(20, seed=3) == sample_scenes(20, seed=3)
    assert sample_scenes(20, seed=3)[:5] == sample_scenes(5, seed=3)
    assert sample_scenes(20, seed=3) != sample_scenes(20, seed=4)
    assert len(set(sample_scenes(100, seed=3))) == 100


def test_sampling_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    sample_scene(torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_everything_of_the_world_occurs_about_equally_often() -> None:
    scenes = sample_scenes(3000, seed=1)
    for options, seen in (
        (SPECIES, Counter(s.identity.species for s in scenes)),
        (ACTIONS, Counter(s.pose.action for s in scenes)),
        (FACINGS, Counter(s.pose.facing for s in scenes)),
        (PLACES, Counter(s.backdrop.place for s in scenes)),
        (PATTERNS, Counter(s.identity.pattern for s in scenes)),
    ):
        assert set(seen) == set(options)
        expected = len(scenes) / len(options)
        # Five standard deviations of a binomial count.
        assert all(abs(n - expected) < 5 * expected**0.5 for n in seen.values())
    assert {s.camera.shot for s in scenes} == set(SHOTS)
    collars = sum(s.identity.collar is not None for s in scenes) / len(scenes)
    assert 0.45 < collars < 0.55


def test_the_share_of_close_ups_is_what_was_asked() -> None:
    assert {s.camera.shot for s in sample_scenes(200, seed=1, close_up=0.0)} == {"full body"}
    assert {s.camera.shot for s in sample_scenes(200, seed=1, close_up=1.0)} == {"close-up"}


def test_acting_changes_the_pose_alone() -> None:
    scene = sample_scenes(1, seed=9)[0]
    other = next(a for a in ACTIONS if a != scene.pose.action)
    acted = scene.acting(other)
    assert acted.pose == replace(scene.pose, action=other)
    assert replace(acted, pose=scene.pose) == scene
    turned = scene.acting(facing="right", jitter=(0.5,) * 10)
    assert turned.pose == Pose(action=scene.pose.action, facing="right", jitter=(0.5,) * 10)
    assert scene.acting() == scene
    with pytest.raises(ConfigError, match="flying"):
        scene.acting("flying")


def test_colours_have_names_and_accents_stand_out() -> None:
    assert all(colour_name(colour) == name for name, colour in COLOURS.items())
    for scene in sample_scenes(200, seed=2):
        coat, accent = scene.identity.coat, scene.identity.accent
        assert sum(abs(a - b) for a, b in zip(coat, accent, strict=True)) > 0.1
