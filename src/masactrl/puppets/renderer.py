"""Scenes -> pictures: one batched tensor program of signed distances, the same on CPU and GPU.

Every limb is a tapered capsule; the parts of `anatomy.PARTS` are painted back to front, each the
union of its capsules, with analytic anti-aliasing (coverage = clamp(1/2 - distance / pixel)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from masactrl.errors import ConfigError
from masactrl.puppets.anatomy import KEYPOINTS, PARTS, Rig, rig
from masactrl.puppets.coat import CoatPaint, limb_table
from masactrl.puppets.places import paint_backdrop, window
from masactrl.puppets.scene import Scene
from masactrl.settings.torch_defaults import torch_defaults

_GROUND: Final = 0.84  # height of the standing line, share of the picture
_SCALE: Final = 0.42  # picture heights per body unit, before fitting
_FIT: Final = (0.88, 0.76)  # widest and tallest figure, shares of the picture
_SLACK: Final = 0.07  # picture heights that an offset of 1 moves the animal aside, where it fits
_CLOSE: Final = 1.5  # magnification of a close-up
_CHUNK_PIXELS: Final = 1 << 17  # images x pixels painted at once: stays in the CPU's cache
_READ: Final = 1024  # scenes whose keypoints are found at once
_POSED: Final = 64  # images posed at once: many small operations, whatever the number of images
_POSED_ON_GPU: Final = 256  # there every operation is a launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Pictures with their exact answers.

    Attributes:
        image: (images, 3, height, width) sRGB in [0, 1].
        mask: (images, 1, height, width) foreground coverage in [0, 1].
        parts: (images, height, width) uint8, index into `anatomy.PARTS`.
        keypoints: (images, len(KEYPOINTS), 2) pixels (x, y); may lie outside a close-up.
        edges: (images, 1, height, width) 1.0 on the outlines between parts, else 0.0.
    """

    image: Tensor
    mask: Tensor
    parts: Tensor
    keypoints: Tensor
    edges: Tensor


@dataclass(frozen=True, slots=True)
class _Placed:
    """A rig in picture coordinates (heights, y down) with the camera's zoom (images,)."""

    start: Tensor
    end: Tensor
    radii: Tensor
    keypoints: Tensor
    scale: Tensor
    shadow: Tensor  # (images, 4): centre x, y, half width, strength


@torch_defaults()
def render(
    scenes: Sequence[Scene], size: int | tuple[int, int], *, device: str | torch.device = "cpu"
) -> Rendered:
    """Render scenes.

    Args:
        scenes: at least one.
        size: side, or (height, width), in pixels, each at least 16.
        device: where to compute and return.

    Raises:
        ConfigError: no scene, or a size below 16 pixels.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not scenes:
        raise ConfigError("render was given no scene; give at least one.")
    if min(height, width) < 16:
        raise ConfigError(f"size {height}x{width} is too small; both sides need 16 pixels or more.")
    place, count = torch.device(device), len(scenes)
    on_cpu = place.type == "cpu"
    posed = _POSED if on_cpu else _POSED_ON_GPU
    at_once = max(1, _CHUNK_PIXELS // (height * width)) if on_cpu else posed
    made = Rendered(
        image=torch.empty(count, 3, height, width, device=place),
        mask=torch.zeros(count, 1, height, width, device=place),
        parts=torch.zeros(count, height, width, dtype=torch.uint8, device=place),
        keypoints=torch.empty(count, len(KEYPOINTS), 2, device=place),
        edges=torch.zeros(count, 1, height, width, device=place),
    )
    for i in range(0, count, posed):
        _render(scenes[i : i + posed], _images(made, slice(i, i + posed)), at_once)
    return made


_Batch = TypeVar("_Batch", Rendered, Rig, "_Placed")


def _images(batch: _Batch, chosen: slice) -> _Batch:
    """Some images of a batch, as views."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    cut: dict[str, Any] = {n: v[chosen] for n, v in values.items() if isinstance(v, Tensor)}
    return replace(batch, **cut)


def _render(scenes: Sequence[Scene], made: Rendered, at_once: int) -> None:
    """Pose all scenes together, paint ``at_once`` of them at a time."""
    height, width = made.image.shape[-2:]
    device = made.image.device
    body = rig(scenes, device)
    aspect = width / height
    placed, zoom, focus, centre = _seen(body, scenes, aspect, device)
    made.keypoints.copy_(_keypoints(placed, zoom, focus, centre) * height)

    pixel = torch.full((len(scenes), 1, 1), 1.0 / height, device=device) / zoom.view(-1, 1, 1)
    grid_x = (torch.arange(width, device=device) + 0.5) / height
    grid_y = (torch.arange(height, device=device) + 0.5) / height
    # Paint in scene coordinates: pixels are taken back through the camera.
    x = (grid_x[None, None, :] - centre[0]) / zoom.view(-1, 1, 1) + focus[:, 0].view(-1, 1, 1)
    y = (grid_y[None, :, None] - centre[1]) / zoom.view(-1, 1, 1) + focus[:, 1].view(-1, 1, 1)
    for i in range(0, len(scenes), at_once):
        part = slice(i, i + at_once)
        canvas, here = _images(made, part), _images(placed, part)
        sight = x[part], y[part], pixel[part]
        paint_backdrop(canvas.image, [s.backdrop for s in scenes[part]], *sight)
        _paint_shadow(canvas.image, here, *sight[:2])
        _paint_body(canvas, _images(body, part), here, scenes[part], *sight)
    made.image.clamp_(0, 1)
    edges, parts = made.edges[:, 0], made.parts
    edges[:, :, 1:] = (parts[:, :, 1:] != parts[:, :, :-1]).to(edges.dtype)
    edges[:, 1:] = torch.maximum(edges[:, 1:], (parts[:, 1:] != parts[:, :-1]).to(edges.dtype))


@torch_defaults()
def keypoints_of(
    scenes: Sequence[Scene], size: int | tuple[int, int], *, device: str | torch.device = "cpu"
) -> Tensor:
    """(scenes, len(KEYPOINTS), 2) pixels (x, y), as `render` has them, without painting anything.

    Args:
        scenes: at least one.
        size: side, or (height, width), in pixels.
        device: where to compute and return.
    """
    height, width = (size, size) if isinstance(size, int) else size
    place = torch.device(device)
    parts = []
    for at in range(0, len(scenes), _READ):
        part = scenes[at : at + _READ]
        parts.append(_keypoints(*_seen(rig(part, place), part, width / height, place)) * height)
    return torch.cat(parts)


@torch_defaults()
def placed_segments(scenes: Sequence[Scene], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the segments of bodies lie in pictures of ``size`` pixels a side.

    Returns:
        starts and ends (n, segments, 2) in pixels (x, y), radii (n, segments, 2) in pixels at both.
    """
    place = torch.device("cpu")
    placed, zoom, focus, centre = _seen(rig(scenes, place), scenes, 1.0, place)
    near = zoom.view(-1, 1, 1)
    start, end = (
        ((one - focus[:, None]) * near + centre) * size for one in (placed.start, placed.end)
    )
    return start, end, placed.radii * near * size


def _seen(
    body: Rig, scenes: Sequence[Scene], aspect: float, device: torch.device
) -> tuple[_Placed, Tensor, Tensor, Tensor]:
    """Bodies in the scene, the camera's zoom (n,), what it looks at (n, 2), and the centre (2,)."""
    zoom, focus = _zoom(scenes, device)
    placed = _place(body, scenes, aspect, device)
    # A close-up is centred between head and chest.
    focus = torch.where((zoom > 1)[:, None], placed.keypoints[:, 1:3].mean(1), focus)
    return placed, zoom, focus, torch.tensor((0.5 * aspect, 0.5), device=device)


def _keypoints(placed: _Placed, zoom: Tensor, focus: Tensor, centre: Tensor) -> Tensor:
    """(n, len(KEYPOINTS), 2) in picture heights."""
    return (placed.keypoints - focus[:, None]) * zoom.view(-1, 1, 1) + centre


def _zoom(scenes: Sequence[Scene], device: torch.device) -> tuple[Tensor, Tensor]:
    zoom = [
        _CLOSE * (1 + 0.06 * s.camera.offset[2]) if s.camera.shot == "close-up" else 1.0
        for s in scenes
    ]
    return torch.tensor(zoom, device=device), torch.full((len(scenes), 2), 0.5, device=device)


def _place(body: Rig, scenes: Sequence[Scene], aspect: float, device: torch.device) -> _Placed:
    """Body units -> picture heights: fit, mirror, stand on the ground, shift."""
    offset = torch.tensor([s.camera.offset for s in scenes], device=device)
    drawn = (body.radii.amax(-1) > 0)[..., None]
    radius = body.radii.amax(-1, keepdim=True).clamp(min=0)
    big = torch.tensor(1e3, device=device)
    ends = (
        torch.minimum(body.start, body.end) - radius,
        torch.maximum(body.start, body.end) + radius,
    )
    low = torch.where(drawn, ends[0], big).amin(1)
    high = torch.where(drawn, ends[1], -big).amax(1)
    span = high - low
    scale = torch.minimum(
        torch.minimum(_FIT[0] * aspect / span[:, 0], _FIT[1] / high[:, 1]),
        torch.full_like(span[:, 0], _SCALE),
    ) * (0.95 + 0.05 * offset[:, 2])
    flip = torch.tensor([1.0 if s.pose.facing == "right" else -1.0 for s in scenes], device=device)
    middle = 0.5 * (low[:, 0] + high[:, 0])
    room = (0.5 * (0.96 * aspect - span[:, 0] * scale)).clamp(min=0.0)
    slack = room.clamp(max=_SLACK)
    aside = slack * offset[:, 0].clamp(-1, 1)
    # Beyond 1 an offset leads on to the edge of the picture.
    beyond = _SLACK * (offset[:, 0] - offset[:, 0].clamp(-1, 1))
    centre_x = 0.5 * aspect + torch.maximum(torch.minimum(aside + beyond, room), -room)
    ground = _GROUND + 0.03 * offset[:, 1]

    def to_picture(points: Tensor) -> Tensor:
        px = centre_x[:, None] + (points[..., 0] - middle[:, None]) * (flip * scale)[:, None]
        py = ground[:, None] - points[..., 1] * scale[:, None]
        return torch.stack((px, py), -1)

    joints = to_picture(body.keypoints)
    lift = torch.stack([body.keypoints[:, k, 1] for k in (5, 7, 9, 11)], 1).amin(1).clamp(0, 1)
    feet = joints[:, (0, 1), 0]
    shadow = torch.stack(
        (
            feet.mean(1),
            ground,
            (feet[:, 0] - feet[:, 1]).abs() * 0.5 + 0.30 * scale,
            0.34 - 0.18 * lift,
        ),
        1,
    )
    return _Placed(
        to_picture(body.start),
        to_picture(body.end),
        body.radii * scale[:, None, None],
        joints,
        scale,
        shadow,
    )


def _paint_shadow(canvas: Tensor, placed: _Placed, x: Tensor, y: Tensor) -> None:
    cx, cy, half, strength = placed.shadow[:, :, None, None].unbind(1)
    wide = 1.25 * half
    rows = window(y, cy + 0.005 - 0.16 * wide, cy + 0.005 + 0.16 * wide)
    columns = window(x, cx - wide, cx + wide)
    x, y = x[:, :, columns], y[:, rows]
    reach = torch.hypot((x - cx) / half, (y - cy - 0.005) / (half * 0.16))
    view = canvas[:, :, rows, columns]
    view.mul_(1 - (strength * (1.25 - reach).mul_(2.2).clamp_(0, 1))[:, None])


def _paint_body(
    made: Rendered,
    body: Rig,
    placed: _Placed,
    scenes: Sequence[Scene],
    x: Tensor,
    y: Tensor,
    pixel: Tensor,
) -> None:
    paint = CoatPaint.of(scenes, made.image.device)
    limbs = limb_table(placed.start, placed.end, placed.radii, body.along, placed.scale)
    boxes = _boxes(placed, x, y)
    for part in range(1, len(PARTS)):
        members = [k for k, p in enumerate(body.part) if p == part]
        left = min(boxes[k][0] for k in members)
        right = max(boxes[k][1] for k in members)
        top = min(boxes[k][2] for k in members)
        bottom = max(boxes[k][3] for k in members)
        if left >= right or top >= bottom:
            continue
        surface = paint.start(x[:, :, left:right], y[:, top:bottom, :])
        for k in members:
            # Beyond its own box a limb is more than a pixel away, where nothing is painted.
            first, last, upper, lower = boxes[k]
            if first < last and upper < lower:
                box = slice(upper - top, lower - top), slice(first - left, last - left)
                surface.unite(limbs[:, :, k], body.kind[k], box)
        alpha = surface.distance.div(-pixel).add_(0.5).clamp_(0, 1)
        colour = surface.colour(PARTS[part])
        view = made.image[:, :, top:bottom, left:right]
        view.lerp_(colour, alpha[:, None].expand_as(colour))
        covered = made.mask[:, 0, top:bottom, left:right]
        torch.maximum(covered, alpha, out=covered)
        made.parts[:, top:bottom, left:right].masked_fill_(alpha > 0.5, part)


def _boxes(placed: _Placed, x: Tensor, y: Tensor) -> list[tuple[int, int, int, int]]:
    """Per segment the pixel window (left, right, top, bottom) that holds it in every image."""
    radius = placed.radii.amax(-1)
    hidden = radius <= 0
    radius = radius.clamp(min=0)[..., None]
    low = torch.minimum(placed.start, placed.end) - radius
    high = torch.maximum(placed.start, placed.end) + radius

    def columns(grid: Tensor, low: Tensor, high: Tensor) -> tuple[list[int], list[int]]:
        flat = grid.reshape(grid.shape[0], -1)  # images, pixels
        step = (flat[:, 1] - flat[:, 0])[:, None]
        first = ((low - flat[:, :1]) / step - 1.0).floor().masked_fill(hidden, 1e9)
        last = ((high - flat[:, :1]) / step + 2.0).ceil().masked_fill(hidden, -1e9)
        count = flat.shape[1]
        return (
            first.amin(0).clamp(0, count).int().tolist(),
            last.amax(0).clamp(0, count).int().tolist(),
        )

    left, right = columns(x, low[..., 0], high[..., 0])
    top, bottom = columns(y, low[..., 1], high[..., 1])
    return list(zip(left, right, top, bottom, strict=True))
