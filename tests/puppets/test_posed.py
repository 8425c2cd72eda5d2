"""Poses between and beyond the actions, and the skeletons drawn of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from masactrl.errors import ConfigError
from masactrl.puppets.anatomy import KEYPOINTS
from masactrl.puppets.posed import (
    LIMBS,
    draw_skeletons,
    limb_colours,
    nearest_action,
    sample_posed_scenes,
)
from masactrl.puppets.renderer import keypoints_of, render
from masactrl.puppets.scene import ACTIONS, Camera, Pose, Scene, sample_scenes

SIZE = 96


def standing() -> Scene:
    scene = sample_scenes(1, seed=3, close_up=0.0)[0]
    return replace(scene, pose=Pose(action="standing", facing="left"))


def test_the_ends_of_the_way_are_the_two_actions() -> None:
    for action in ACTIONS:
        for towards in ACTIONS:
            here = standing().acting(action)
            way = [
                replace(here, pose=replace(here.pose, towards=towards, share=share))
                for share in (0.0, 1.0)
            ]
            ends = [here, here.acting(towards)]
            assert torch.equal(keypoints_of(way, SIZE), keypoints_of(ends, SIZE))


@pytest.mark.parametrize("towards", ["running", "sitting", "lying", "rearing", "grazing"])
def test_the_way_has_no_jumps(towards: str) -> None:
    here = standing()
    way = [
        replace(here, pose=replace(here.pose, towards=towards, share=k / 100)) for k in range(101)
    ]
    steps = keypoints_of(way, SIZE).diff(dim=0).norm(dim=-1)
    assert steps.max() < 0.05 * SIZE


def test_keypoints_are_those_of_the_picture() -> None:
    scenes = sample_posed_scenes(6, seed=2)
    assert torch.equal(keypoints_of(scenes, SIZE), render(scenes, SIZE).keypoints)
    assert torch.equal(keypoints_of(scenes, (64, 96)), render(scenes, (64, 96)).keypoints)


def test_an_offset_beyond_one_leads_to_the_edge_and_no_further() -> None:
    here = standing()

    def at(x: float) -> torch.Tensor:
        camera = Camera(offset=(x, 0.0, 0.0))
        return render([replace(here, camera=camera)], SIZE).mask[0, 0]

    def middle(mask: torch.Tensor) -> float:
        columns = mask.sum(0)
        return float((columns * torch.arange(SIZE)).sum() / columns.sum())

    places = [middle(at(x)) for x in (-4.0, -2.0, 0.0, 2.0, 4.0)]
    assert places == sorted(places)
    assert places[-1] - places[0] > 0.15 * SIZE
    for x in (-4.0, 4.0):
        assert at(x)[:, 0].max() == 0
        assert at(x)[:, -1].max() == 0


def test_posed_scenes_are_drawn_from_their_seed_and_differ_from_spoken_poses() -> None:
    scenes = sample_posed_scenes(200, seed=4)
    assert scenes == sample_posed_scenes(200, seed=4)
    assert scenes[:5] == sample_posed_scenes(5, seed=4)
    on_the_way = [s for s in scenes if s.pose.towards is not None]
    assert 70 < len(on_the_way) < 130
    assert all(s.pose.towards != s.pose.action for s in on_the_way)
    far = [abs(j) for s in scenes for j in s.pose.jitter]
    assert 1 < max(far) <= 6
    assert {nearest_action(s.pose) for s in scenes} == set(ACTIONS)
    assert any(nearest_action(s.pose) != s.pose.action for s in scenes)


def test_a_pose_is_checked() -> None:
    with pytest.raises(ConfigError, match="towards"):
        Pose(action="running", facing="left", towards="flying", share=0.5)
    with pytest.raises(ConfigError, match="towards names no action"):
        Pose(action="running", facing="left", share=0.5)
    with pytest.raises(ConfigError, match="share"):
        Pose(action="running", facing="left", towards="sitting", share=1.5)
    with pytest.raises(ConfigError, match="offset x"):
        Camera(offset=(5.0, 0.0, 0.0))


def test_every_limb_is_drawn_in_its_colour_where_it_is() -> None:
    scene = standing()
    joints = keypoints_of([scene], 256)
    picture = draw_skeletons(joints, 256)[0]
    assert picture.shape == (3, 256, 256)
    assert 0 <= picture.min() <= picture.max() <= 1
    seen = 0
    for (start, end), colour in zip(LIMBS, limb_colours(), strict=True):
        a, b = (joints[0, KEYPOINTS.index(joint)] for joint in (start, end))
        # A quarter of the way, where limbs that share a joint have parted.
        for share in (0.25, 0.5, 0.75):
            x, y = (a + share * (b - a)).long().tolist()
            seen += bool(torch.allclose(picture[:, y, x], colour, atol=1e-3))
    assert seen > 2 * len(LIMBS)  # the rest lies under another limb
    assert (picture.amax(0) > 0).float().mean() < 0.1


def test_skeletons_are_drawn_alike_alone_and_in_company() -> None:
    joints = keypoints_of(sample_posed_scenes(9, seed=5), 256)
    together = draw_skeletons(joints, 256)
    assert torch.equal(together, torch.cat([draw_skeletons(one[None], 256) for one in joints]))
