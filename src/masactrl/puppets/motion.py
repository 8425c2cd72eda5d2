r"""Where every point of a moving animal goes from one frame to the next, exactly.

A body is made of segments that turn as wholes, so a point keeps its place beside its segment:

    p = a + s e + d n     ->     p' = a' + s e' + d n'

    a, e, n    start, direction and normal of the segment in a frame, picture heights
    s, d       along and beside it
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from masactrl.errors import ConfigError
from masactrl.puppets.anatomy import rig
from masactrl.puppets.renderer import placed_segments, render
from masactrl.puppets.scene import Scene

__all__ = ["exact_motion"]


def exact_motion(scenes: Sequence[Scene], size: int) -> tuple[Tensor, Tensor]:
    """Return where the pixels of each frame's animal are in the next frame.

    Args:
        scenes: at least two frames of one animal.
        size: side of the pictures in pixels.

    Returns:
        (n - 1, size, size, 2) pixels (x, y) in the next frame, and (n - 1, size, size) whether the
        pixel is of the animal and is seen there, too.

    Raises:
        ConfigError: there are too few frames.
    """
    if len(scenes) < 2:
        raise ConfigError(f"{len(scenes)} frames were given; a motion has at least 2.")
    parts = render(scenes, size).parts.long()  # n h w
    body = rig(scenes, torch.device("cpu"))
    start, end, radii = placed_segments(scenes, size)
    side = torch.arange(size) + 0.5
    y, x = torch.meshgrid(side, side, indexing="ij")
    points = torch.stack((x, y), -1).reshape(-1, 2)  # pixels 2
    moved, seen = [], []
    of_part = torch.tensor(body.part)
    for k in range(len(scenes) - 1):
        chosen = _nearest(points, start[k], end[k], radii[k], of_part, parts[k].flatten())
        e, n = _axes(start[k], end[k])
        e_next, n_next = _axes(start[k + 1], end[k + 1])
        beside = points - start[k][chosen]
        s = (beside * e[chosen]).sum(-1, keepdim=True)
        d = (beside * n[chosen]).sum(-1, keepdim=True)
        there = start[k + 1][chosen] + s * e_next[chosen] + d * n_next[chosen]
        moved.append(there.reshape(size, size, 2))
        inside = ((there >= 0) & (there < size)).all(-1)
        column, row = there.long().clamp(0, size - 1).unbind(-1)
        same = parts[k + 1][row, column] == parts[k].flatten()
        seen.append((inside & same & (parts[k].flatten() > 0)).reshape(size, size))
    return torch.stack(moved), torch.stack(seen)


def _axes(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Directions and normals (segments, 2); of a segment without length the picture's own."""
    along = end - start
    length = along.norm(dim=-1, keepdim=True)
    usual = torch.tensor((1.0, 0.0)).expand_as(along)
    e = torch.where(length > 1e-3, along / length.clamp(min=1e-3), usual)
    return e, torch.stack((-e[:, 1], e[:, 0]), -1)


def _nearest(
    points: Tensor, start: Tensor, end: Tensor, radii: Tensor, of_part: Tensor, parts: Tensor
) -> Tensor:
    """The segment (pixels,) of each pixel: the one of its part whose outline it lies deepest in."""
    best = torch.full((len(points),), torch.inf)
    chosen = torch.zeros(len(points), dtype=torch.long)
    for k in range(len(start)):
        if float(radii[k].max()) <= 0:
            continue
        along = end[k] - start[k]
        t = ((points - start[k]) @ along / along.square().sum().clamp(min=1e-6)).clamp(0, 1)
        away = (points - start[k] - t[:, None] * along).norm(dim=-1)
        depth = away - torch.lerp(radii[k, 0], radii[k, 1], t)
        better = (parts == of_part[k]) & (depth < best)
        best = torch.where(better, depth, best)
        chosen = torch.where(better, torch.full_like(chosen, k), chosen)
    return chosen
