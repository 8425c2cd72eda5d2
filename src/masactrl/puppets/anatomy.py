"""Bodies as tapered capsules: the segments of every part, painted back to front.

Coordinates are those of `skeleton` (x forward, y up, body units), shifted so that the animal stands
on y = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from masactrl.puppets.scene import Scene
from masactrl.puppets.skeleton import (
    Body,
    Leg,
    Skeleton,
    muzzle_third,
    polar,
    pose_skeleton,
    vector,
)

#: Painted back to front; the index is the value in the part-label map (0 is the background).
PARTS: Final = (
    "background",
    "tail",
    "far legs",
    "far ear",
    "mane",
    "trunk",
    "hind leg",
    "front leg",
    "collar",
    "head",
    "horns",
    "near ear",
    "face",
)

KEYPOINTS: Final = (
    "pelvis",
    "chest",
    "head",
    "muzzle",
    "near front knee",
    "near front foot",
    "far front knee",
    "far front foot",
    "near hind knee",
    "near hind foot",
    "far hind knee",
    "far hind foot",
    "tail tip",
)

_BEARING: Final = ("far legs", "hind leg", "front leg", "trunk")  # what stands on the ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Segments of a batch of bodies, in body units before the camera.

    Attributes:
        start, end: (images, segments, 2) end points, x forward, y up.
        radii: (images, segments, 2) radius at start and end; a radius <= 0 draws nothing.
        along: (images, segments) distance along the limb at which the segment starts, body units;
            coat patterns are functions of it, so that they move with the limb.
        part: per segment, index into `PARTS`.
        kind: per segment, "coat", "tip" (end of a limb that shows the accent), "inner", "muzzle",
            "collar", "ivory", "eye" or "nose".
        keypoints: (images, len(KEYPOINTS), 2).
    """

    start: Tensor
    end: Tensor
    radii: Tensor
    along: Tensor
    part: tuple[int, ...]
    kind: tuple[str, ...]
    keypoints: Tensor


class _Builder:
    """Collects segments in painting order."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self.part: list[int] = []
        self.kind: list[str] = []

    def add(
        self,
        part: str,
        kind: str,
        start: Tensor,
        end: Tensor,
        radius_start: Tensor,
        radius_end: Tensor,
        along: Tensor | None = None,
    ) -> None:
        along = torch.zeros_like(radius_start) if along is None else along
        self.rows.append((start, end, radius_start, radius_end, along))
        self.part.append(PARTS.index(part))
        self.kind.append(kind)

    def build(self, keypoints: Tensor, lift: Tensor) -> Rig:
        start, end, r0, r1, along = (
            torch.stack(column, 1) for column in zip(*self.rows, strict=True)
        )
        radii = torch.stack((r0, r1), -1)
        # Put the lowest point of legs and trunk on the ground, then lift what jumps.
        bearing = [i for i, p in enumerate(self.part) if PARTS[p] in _BEARING]
        low = torch.minimum(
            start[:, bearing, 1] - radii[:, bearing, 0], end[:, bearing, 1] - radii[:, bearing, 1]
        ).amin(1)
        up = torch.stack((torch.zeros_like(low), lift - low), -1)[:, None]
        start, end = start + up, end + up
        # Tails and noses rest on the ground instead of sinking into it.
        start[..., 1] = torch.maximum(start[..., 1], radii[..., 0])
        end[..., 1] = torch.maximum(end[..., 1], radii[..., 1])
        return Rig(
            start=start,
            end=end,
            radii=radii,
            along=along,
            part=tuple(self.part),
            kind=tuple(self.kind),
            keypoints=keypoints + up,
        )


def rig(scenes: Sequence[Scene], device: torch.device) -> Rig:
    """Pose a batch of animals and give them flesh."""
    body = Body.of(scenes, device)
    bones = pose_skeleton(body)
    build = _Builder()
    hip = torch.maximum(body.hips * 0.62, body.leg_width * 1.3)
    shoulder = torch.maximum(body.chest * 0.50, body.leg_width * 1.2)
    _add_tail(build, body, bones)
    _add_leg(build, "far legs", body, bones.far_hind, hip * 0.85)
    _add_leg(build, "far legs", body, bones.far_front, shoulder * 0.8)
    ears = _Ears.of(body, bones)
    ears.add_far(build, body, bones)
    _add_mane(build, body, bones)
    neck_base = torch.maximum(body.chest * 0.72, body.species["neck_width"] * 1.1)
    neck_top = body.species["neck_width"] * 0.95
    _add_trunk(build, body, bones, neck_base, neck_top)
    _add_leg(build, "hind leg", body, bones.near_hind, hip)
    _add_leg(build, "front leg", body, bones.near_front, shoulder)
    collared = torch.tensor([s.identity.collar is not None for s in scenes], device=device)
    _add_collar(build, body, bones, 0.45 * neck_base + 0.55 * neck_top, collared)
    _add_head(build, body, bones)
    _add_horns(build, body, bones)
    ears.add_near(build)
    _add_face(build, body, bones)
    legs = (bones.near_front, bones.far_front, bones.near_hind, bones.far_hind)
    keypoints = torch.stack(
        (
            bones.pelvis,
            bones.chest,
            bones.head,
            bones.muzzle[3],
            *(joint for leg in legs for joint in (leg.knee, leg.foot)),
            bones.tail[3],
        ),
        1,
    )
    return build.build(keypoints, body.pose["lift"])


def _add_tail(build: _Builder, body: Body, bones: Skeleton) -> None:
    m = body.species
    radii = (m["tail_base"], m["tail_middle"], m["tail_middle"], m["tail_tip"])
    for k in range(3):
        kind = "tip" if k == 2 else "coat"
        start, end = bones.tail[k], bones.tail[k + 1]
        build.add("tail", kind, start, end, radii[k], radii[k + 1], body.tail * k)


def _add_leg(build: _Builder, part: str, body: Body, leg: Leg, hip: Tensor) -> None:
    wide, half = body.leg_width, body.leg * 0.5
    build.add(part, "coat", leg.root, leg.knee, hip, wide * 1.05)
    build.add(part, "sock", leg.knee, leg.foot, wide * 1.05, wide * 0.82, half)
    build.add(part, "sock", leg.foot, leg.toe, wide * 0.95, wide * 0.75, 2 * half)


def _add_mane(build: _Builder, body: Body, bones: Skeleton) -> None:
    m = body.species
    radius = torch.where(m["mane"] > 0, m["mane"], -1.0)
    back = polar(m["neck_width"] * 0.75, bones.neck_angle + 90 * bones.side)
    crest = bones.head + back * 0.6
    nape = bones.head - 0.4 * vector(-0.55 * bones.side * body.head, 0.35 * body.head)
    build.add("mane", "tip", bones.neck + back, crest, radius, radius * 0.9)
    build.add("mane", "tip", crest, nape, radius, radius * 0.8)


def _add_trunk(
    build: _Builder, body: Body, bones: Skeleton, neck_base: Tensor, neck_top: Tensor
) -> None:
    build.add("trunk", "coat", bones.pelvis, bones.chest, body.hips, body.chest)
    root = bones.neck - polar(body.chest * 0.2, bones.neck_angle)
    build.add("trunk", "coat", root, bones.head, neck_base, neck_top, body.species["trunk"])


def _add_collar(
    build: _Builder, body: Body, bones: Skeleton, width: Tensor, collared: Tensor
) -> None:
    knot = bones.neck + (bones.head - bones.neck) * 0.55
    across = polar(width * 0.98, bones.neck_angle + 90)
    strap = torch.where(collared, 0.030 + 0.10 * body.species["neck_width"], -1.0)
    build.add("collar", "collar", knot - across, knot + across, strap, strap)


def _add_head(build: _Builder, body: Body, bones: Skeleton) -> None:
    m, r = body.species, body.head
    before = m["trunk"] + m["neck"]
    short = polar(r * 0.1, bones.look)
    build.add("head", "coat", bones.head - short, bones.head + short, r, r * 0.97, before)
    widths = (
        torch.maximum(r * 0.62 * (1 - m["hose"] * 0.25), m["muzzle_width"]),
        0.31 * r + 0.5 * m["muzzle_width"],
        m["muzzle_width"] + 0.01,
        m["muzzle_width"],
    )
    for k in range(3):
        kind = "muzzle" if k == 2 else "coat"
        along = before + r + muzzle_third(body) * k
        joint = bones.muzzle
        build.add("head", kind, joint[k], joint[k + 1], widths[k], widths[k + 1], along)


def _add_horns(build: _Builder, body: Body, bones: Skeleton) -> None:
    """An elephant's tusk, a giraffe's horn."""
    m, side = body.species, bones.side
    ones = torch.ones_like(side)
    tusk = bones.muzzle[1] - vector(0.02 * side, 0.05 * ones)
    radius = torch.where(m["hose"] > 0.5, 0.035, -1.0)
    tip = tusk + polar(0.22 * ones, bones.look - 28 * side)
    build.add("horns", "ivory", tusk, tip, radius, radius * 0.5)
    radius = torch.where(m["horn"] > 0, 0.028, -1.0)
    crown = bones.head + vector(0.05 * side, 0.8 * body.head)
    tip = crown + polar(m["horn"], 90 + 10 * side)
    build.add("horns", "ivory", crown, tip, radius, radius * 1.5)


def _add_face(build: _Builder, body: Body, bones: Skeleton) -> None:
    m, look, side = body.species, bones.look, bones.side
    radius = 0.026 + 0.085 * body.head
    eye = bones.head + polar(body.head * 0.42, look + side * 38)
    build.add("face", "white", eye, eye, radius * 1.35, radius * 1.35)
    pupil = eye + polar(radius * 0.35, look)
    build.add("face", "eye", pupil, pupil, radius * 0.85, radius * 0.85)
    size = torch.where(m["hose"] > 0.5, -1.0, 0.022 + 0.28 * m["muzzle_width"])
    nose = bones.muzzle[3] + polar(m["muzzle_width"] * 0.75, look + side * 18)
    build.add("face", "nose", nose, nose, size, size)


@dataclass(frozen=True, slots=True)
class _Ears:
    root: Tensor
    angle: Tensor
    length: Tensor
    width: Tensor
    tip: Tensor

    @staticmethod
    def of(body: Body, bones: Skeleton) -> _Ears:
        m, r, side = body.species, body.head, bones.side
        hanging, flat = m["ear_angle"] < 0, m["hose"] > 0.5  # an elephant's lies behind the eye
        tilt = bones.look * 0.5 * side
        angle = torch.where(bones.turned, 180 - m["ear_angle"], m["ear_angle"])
        angle = angle + torch.where(hanging, torch.zeros_like(tilt), tilt * 0.6)
        behind = torch.where(flat, 0.50, torch.where(hanging, 0.25, 0.30))
        above = torch.where(flat, 0.35, torch.where(hanging, 0.55, 0.62))
        width = m["ear_width"] * (0.4 + 0.6 * body.ear)
        root = bones.head + vector(-behind * r * side, above * r)
        return _Ears(root, angle, m["ear"] * body.ear, width, width * m["ear_tip"])

    def add_far(self, build: _Builder, body: Body, bones: Skeleton) -> None:
        """The other ear, seen beside the near one; an elephant's is hidden."""
        m, side = body.species, bones.side
        root = self.root + vector(0.42 * body.head * side, 0.06 * body.head)
        end = root + polar(self.length * 0.95, self.angle - 8 * side)
        width = torch.where(m["hose"] > 0.5, -1.0, self.width)
        build.add("far ear", "coat", root, end, width, width * m["ear_tip"])

    def add_near(self, build: _Builder) -> None:
        """The near ear with its inside in the accent colour."""
        end = self.root + polar(self.length, self.angle)
        build.add("near ear", "coat", self.root, end, self.width, self.tip)
        start = self.root + polar(self.length * 0.15, self.angle)
        end = self.root + polar(self.length * 0.75, self.angle)
        inner = self.width * 0.5
        build.add(
            "near ear", "inner", start, end, inner, torch.maximum(self.tip * 0.5, inner * 0.3)
        )
