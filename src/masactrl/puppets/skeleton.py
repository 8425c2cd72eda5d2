"""Forward kinematics: measures, action and jitter -> joints, all bodies of a batch at once.

A body lives in its own plane: x forward (the animal faces +x), y up, lengths in body units (a cat
measures 0.8 from pelvis to chest), the pelvis at the origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from masactrl.puppets.animals import MEASURES, POSES, Action
from masactrl.puppets.scene import SPECIES, Scene


def direction(degrees: Tensor) -> Tensor:
    """(...) degrees above the horizontal -> (..., 2) unit vectors."""
    radians = degrees * (math.pi / 180)
    return torch.stack((torch.cos(radians), torch.sin(radians)), -1)


def polar(length: Tensor, degrees: Tensor) -> Tensor:
    """(n,), (n,) -> (n, 2) vectors of a length along a direction."""
    return length[:, None] * direction(degrees)


def vector(x: Tensor, y: Tensor) -> Tensor:
    """(n,), (n,) -> (n, 2)."""
    return torch.stack((x, y), -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The measures of a batch of individuals, each (n,): species times proportions."""

    species: dict[str, Tensor]  # every row of `animals.MEASURES`
    pose: dict[str, Tensor]  # every field of `animals.Action`; legs (n, 2)
    jitter: Tensor  # (n, joints), see `scene.Pose`
    chest: Tensor
    hips: Tensor
    leg: Tensor
    leg_width: Tensor
    head: Tensor
    head_size: Tensor
    ear: Tensor
    tail: Tensor

    @staticmethod
    def of(scenes: Sequence[Scene], device: torch.device) -> Body:
        """Read the scenes."""
        index = [SPECIES.index(s.identity.species) for s in scenes]
        m = {
            name: torch.tensor(row, dtype=torch.float32, device=device)[index]
            for name, row in MEASURES.items()
        }
        actions = [POSES[s.pose.action] for s in scenes]
        towards = [POSES[s.pose.towards or s.pose.action] for s in scenes]
        share = torch.tensor([s.pose.share for s in scenes], dtype=torch.float32, device=device)

        def angles(name: str) -> Tensor:
            """(n,) or (n, 2): of the action, or on the way to the next one."""
            here, there = (
                torch.tensor([getattr(a, name) for a in which], dtype=torch.float32, device=device)
                for which in (actions, towards)
            )
            return torch.lerp(here, there, share if here.ndim == 1 else share[:, None])

        pose = {f.name: angles(f.name) for f in fields(Action)}
        leg, girth, head, ear, tail = torch.tensor(
            [s.identity.proportions for s in scenes], device=device
        ).unbind(1)
        return Body(
            species=m,
            pose=pose,
            jitter=torch.tensor([s.pose.jitter for s in scenes], device=device),
            chest=m["chest"] * girth,
            hips=m["hips"] * girth,
            leg=m["leg"] * leg,
            leg_width=m["leg_width"] * (0.5 + 0.5 * girth),
            head=m["head"] * head,
            head_size=head,
            ear=ear,
            tail=m["tail"] * tail / 3,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """Joints of one leg, each (n, 2), from the trunk to the toes."""

    root: Tensor
    knee: Tensor
    foot: Tensor
    toe: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """Joints (n, 2) and the directions that drawing needs, (n,) degrees.

    Attributes:
        look: where the muzzle points; side: +1 head forward, -1 turned back.
        turned: bool (n,), the head looks back.
        muzzle, tail: four joints each, from the body outwards.
    """

    pelvis: Tensor
    chest: Tensor
    neck: Tensor
    neck_angle: Tensor
    head: Tensor
    look: Tensor
    side: Tensor
    turned: Tensor
    muzzle: tuple[Tensor, Tensor, Tensor, Tensor]
    tail: tuple[Tensor, Tensor, Tensor, Tensor]
    near_hind: Leg
    far_hind: Leg
    near_front: Leg
    far_front: Leg


def pose_skeleton(body: Body) -> Skeleton:
    """Place the joints."""
    spine = _spine(body)
    dorsal = direction(spine + 90)  # unit vector out of the back
    pelvis = torch.zeros_like(dorsal)
    chest = polar(body.species["trunk"], spine)
    near_hind, far_hind = _hind_legs(body, pelvis, dorsal)
    # Hind legs decide where the ground is.
    ground = torch.minimum(near_hind.foot[:, 1], far_hind.foot[:, 1]) - body.leg_width * 0.75
    near_front, far_front = _front_legs(body, chest, dorsal, ground)
    neck = chest + (body.chest * 0.35)[:, None] * dorsal
    length, neck_angle = _neck(body, neck, spine, ground)
    head = neck + polar(length, neck_angle)
    turned = body.pose["turned"] > 0.5
    side = torch.where(turned, -1.0, 1.0)
    look = _look(body, spine, turned)
    return Skeleton(
        pelvis=pelvis,
        chest=chest,
        neck=neck,
        neck_angle=neck_angle,
        head=head,
        look=look,
        side=side,
        turned=turned,
        muzzle=_muzzle(body, head, look, side),
        tail=_tail(body, pelvis, spine, dorsal),
        near_hind=near_hind,
        far_hind=far_hind,
        near_front=near_front,
        far_front=far_front,
    )


def _spine(body: Body) -> Tensor:
    """Pitch of the trunk; long-legged sitters lean back until the front legs reach the ground."""
    rise = ((body.leg - body.hips) / body.species["trunk"]).clamp(0.55, 0.86)
    lean = torch.rad2deg(torch.asin(rise))
    return torch.lerp(body.pose["spine"], lean, body.pose["sits"]) + 3 * body.jitter[:, 0]


def _leg(body: Body, root: Tensor, angles: Tensor, wiggle: Tensor, length: Tensor) -> Leg:
    """``angles`` (n, 2): upper and lower, degrees forward from straight down."""
    knee = root + polar(0.5 * length, angles[:, 0] + 5 * wiggle - 90)
    foot = knee + polar(0.5 * length, angles[:, 1] + 5 * wiggle - 90)
    toe = foot + vector(0.55 * body.leg_width + 0.02, -0.1 * body.leg_width)
    return Leg(root=root, knee=knee, foot=foot, toe=toe)


def _far(body: Body) -> Tensor:
    """Legs of the far side stand a little back."""
    return vector(torch.full_like(body.leg, -0.05), torch.zeros_like(body.leg))


def _hind_legs(body: Body, pelvis: Tensor, dorsal: Tensor) -> tuple[Leg, Leg]:
    root = pelvis - (body.hips * 0.25)[:, None] * dorsal
    length = body.leg * body.pose["fold"]
    j = body.jitter
    return (
        _leg(body, root, body.pose["near_hind"], j[:, 1], length),
        _leg(body, root + _far(body), body.pose["far_hind"], j[:, 2], length),
    )


def _front_legs(body: Body, chest: Tensor, dorsal: Tensor, ground: Tensor) -> tuple[Leg, Leg]:
    """Front legs of a planted pose are stretched or bent until they reach the ground."""
    root = chest - (body.chest * 0.35)[:, None] * dorsal
    drop = root[:, 1] - ground - body.leg_width * 0.75

    def length(angles: Tensor) -> Tensor:
        vertical = torch.cos(torch.deg2rad(angles)).mean(1)
        stretch = (drop / (vertical * body.leg)).clamp(0.45, 1.5)
        free = body.leg * body.pose["front_fold"]
        return torch.lerp(free, body.leg * stretch, body.pose["plant"])

    near, far, j = body.pose["near_front"], body.pose["far_front"], body.jitter
    return (
        _leg(body, root, near, j[:, 3], length(near)),
        _leg(body, root + _far(body), far, j[:, 4], length(far)),
    )


def _neck(body: Body, root: Tensor, spine: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Length and angle; a grazer's neck aims the muzzle at the ground, longer if it must."""
    m, hose = body.species, body.species["hose"]
    grazes = body.pose["grazes"]
    angle = m["neck_angle"] + body.pose["neck"] + 0.30 * spine + 5 * body.jitter[:, 5]
    fall = root[:, 1] - ground - 0.75 * body.head - m["muzzle"] * (1 - hose) * 0.55
    reach = torch.maximum(m["neck"], (fall / 0.92).clamp(max=1.0) * (1 - hose * 0.4))
    dip = -torch.rad2deg(torch.asin((fall / reach).clamp(0.1, 0.96))) + 3 * body.jitter[:, 5]
    return torch.lerp(m["neck"], reach, grazes), torch.lerp(angle, dip, grazes)


def _look(body: Body, spine: Tensor, turned: Tensor) -> Tensor:
    m = body.species
    ahead = m["muzzle_drop"] * (1 - m["hose"]) + body.pose["head"] + 0.25 * spine
    down = torch.full_like(ahead, -52.0)
    look = torch.lerp(ahead, down, body.pose["grazes"]) + 6 * body.jitter[:, 6]
    return torch.where(turned, 180 - look, look)


def _muzzle(
    body: Body, head: Tensor, look: Tensor, side: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A hose hangs: its three joints bend down and curl forward at the end, or up when lifted."""
    hose = body.species["hose"]
    bends = torch.stack((-48 * hose, -82 * hose, -40 * hose), 1)
    bends = torch.lerp(bends, bends * 0.4, body.pose["grazes"][:, None])
    bends = torch.lerp(bends, -0.6 * bends, body.pose["trumpets"][:, None])
    third = muzzle_third(body) + body.head * 0.10
    joints = [head + polar(body.head * 0.35, look)]
    for k in range(3):
        joints.append(joints[-1] + polar(third, look + side * bends[:, k]))
    return joints[0], joints[1], joints[2], joints[3]


def muzzle_third(body: Body) -> Tensor:
    """(n,) a third of the muzzle's length; half of it grows with the head."""
    return body.species["muzzle"] * (0.5 + 0.5 * body.head_size) / 3


def _tail(
    body: Body, pelvis: Tensor, spine: Tensor, dorsal: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three segments with a steady bend."""
    root = pelvis - polar(body.hips * 0.75, spine) + (body.hips * 0.35)[:, None] * dorsal
    m = body.species
    angle = 180 + spine - m["tail_angle"] - body.pose["tail"] - 8 * body.jitter[:, 7]
    joints = [root]
    for k in range(3):
        bend = angle - m["tail_bend"] * (k - 0.5) * 0.9
        joints.append(joints[-1] + polar(body.tail, bend))
    return joints[0], joints[1], joints[2], joints[3]
