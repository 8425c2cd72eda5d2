"""Poses that no words can say, and their pictures as users of ControlNet draw them.

Adapters are trained on such scenes and measured on others of them: joints bent far beyond what the
model was trained with, bodies on the way from one action to another, animals at the edge.
"""

from __future__ import annotations

import colorsys
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from masactrl.puppets.anatomy import KEYPOINTS
from masactrl.puppets.scene import ACTIONS, JITTERS, Camera, Pose, Scene, sample_scene

#: The limbs of a drawn skeleton, from joint to joint, those of the far side first.
LIMBS: Final[tuple[tuple[str, str], ...]] = (
    ("pelvis", "far hind knee"),
    ("far hind knee", "far hind foot"),
    ("chest", "far front knee"),
    ("far front knee", "far front foot"),
    ("pelvis", "tail tip"),
    ("pelvis", "chest"),
    ("pelvis", "near hind knee"),
    ("near hind knee", "near hind foot"),
    ("chest", "near front knee"),
    ("near front knee", "near front foot"),
    ("chest", "head"),
    ("head", "muzzle"),
)
_WIDTH: Final = 0.010  # half the width of a drawn limb, share of the picture's height
_MOST: Final = 6.0  # of the jitter of posed scenes, see `scene.Pose`
_CHUNK_PIXELS: Final = 1 << 19  # images x pixels drawn at once: stays in the CPU's cache


def sample_posed(generator: torch.Generator) -> Scene:
    """Draw a scene in a pose that words cannot say.

    Half of the bodies are on the way to another action; every joint is bent, half of them far; half
    of the animals stand aside. One in ten is a close-up.
    """
    scene = sample_scene(generator)
    u = torch.rand(2 * JITTERS + 4, generator=generator, dtype=torch.float64).tolist()
    size, sign = u[:JITTERS], scene.pose.jitter
    far = u[JITTERS : 2 * JITTERS]
    jitter = tuple(
        s * (1 + (_MOST - 1) * w) if f < 0.5 else s for s, w, f in zip(sign, size, far, strict=True)
    )
    on_the_way, to, share, aside = u[-4:]
    others = [action for action in ACTIONS if action != scene.pose.action]
    pose = replace(scene.pose, jitter=jitter)
    if on_the_way < 0.5:
        pose = replace(pose, towards=others[int(to * len(others))], share=share)
    x, y, scale = scene.camera.offset
    if aside < 0.5:
        x *= 4.0
    return replace(scene, pose=pose, camera=Camera(shot=scene.camera.shot, offset=(x, y, scale)))


def sample_posed_scenes(count: int, *, seed: int) -> tuple[Scene, ...]:
    """``count`` scenes of `sample_posed`, deterministic from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(sample_posed(generator) for _ in range(count))


def nearest_action(pose: Pose) -> str:
    """The action that a caption may name: the nearer end of the way."""
    return pose.action if pose.towards is None or pose.share < 0.5 else pose.towards


def limb_colours() -> Tensor:
    """(limbs, 3) sRGB in [0, 1]: hues around the circle, as the skeletons of OpenPose have them."""
    count = len(LIMBS)
    return torch.tensor([colorsys.hsv_to_rgb(k / count, 1.0, 1.0) for k in range(count)])


def draw_skeletons(keypoints: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Draw coloured limbs on black.

    Args:
        keypoints: (n, len(KEYPOINTS), 2) pixels (x, y) in pictures of this size.
        size: side, or (height, width), in pixels.

    Returns:
        (n, 3, height, width) sRGB in [0, 1], on the device of the keypoints.
    """
    height, width = (size, size) if isinstance(size, int) else size
    on_cpu = keypoints.device.type == "cpu"
    at_once = max(1, _CHUNK_PIXELS // (height * width)) if on_cpu else len(keypoints)
    parts = [_drawn(part, height, width) for part in keypoints.split(at_once)]
    return torch.cat(parts)


def _drawn(keypoints: Tensor, height: int, width: int) -> Tensor:
    """See `draw_skeletons`."""
    ends = [[KEYPOINTS.index(joint) for joint in limb] for limb in LIMBS]
    start, end = (keypoints[:, [limb[k] for limb in ends]] for k in (0, 1))  # n limbs 2
    x = torch.arange(width, device=keypoints.device) + 0.5
    y = torch.arange(height, device=keypoints.device) + 0.5
    picture = keypoints.new_zeros(len(keypoints), 3, height, width)
    colours = limb_colours().to(picture)
    for k in range(len(LIMBS)):  # later limbs lie over earlier ones
        ax, ay = start[:, k, :1, None], start[:, k, 1:, None]
        dx, dy = end[:, k, :1, None] - ax, end[:, k, 1:, None] - ay
        px, py = x - ax, y[:, None] - ay
        along = ((px * dx + py * dy) / (dx * dx + dy * dy).clamp(min=1e-6)).clamp(0, 1)
        distance = torch.hypot(px - along * dx, py - along * dy)
        cover = (_WIDTH * height + 0.5 - distance).clamp(0, 1)[:, None]
        picture = torch.lerp(picture, colours[k].view(1, 3, 1, 1).expand_as(picture), cover)
    return picture
