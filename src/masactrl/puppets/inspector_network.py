"""The inspector's network: what it answers of a picture, before any choice is made.

Four scales of residual convolutions, a reader that answers questions at the top, and a decoder that
says of every pixel whether it is animal and which colour it shows. Colours are not guessed from
features: they are averages of the picture where the decoder says that they are seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masactrl.puppets.anatomy import KEYPOINTS
from masactrl.puppets.scene import ACTIONS, FACINGS, PATTERNS, PLACES, SHOTS, SPECIES

#: Question -> the answers it has; an answer's index is its class.
QUESTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "species": SPECIES,
        "action": ACTIONS,
        "facing": FACINGS,
        "place": PLACES,
        "shot": SHOTS,
        "pattern": PATTERNS,
        "collar": ("no", "yes"),
    }
)
#: What has a colour, in the order of `Answers.colours`.
COLOURED: Final = ("coat", "accent", "collar")
SIZE: Final = 256  # side of the pictures the network works on, pixels
_FOLD: Final = 2  # pixels of a side that become channels before the first convolution
_DETAILS: Final = 96  # channels of fine features that are pooled over the foreground
_ALIKE: Final = 0.12  # sRGB distance within which a pixel may as well show the accent
_PENALTY: Final = 6.0  # how much such a pixel is held back, in nats, when the coat is read


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 16, channels)


class _Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), channels unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first_norm = _norm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = _norm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.relu(self.first_norm(x)))
        return x + self.second(F.relu(self.second_norm(h)))  # type: ignore[no-any-return]


class _Reader(nn.Module):
    """One query per question looks over all cells, after the cells have looked at each other."""

    def __init__(self, channels: int, cells: int, details: int, heads: int = 6) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(cells, channels) * 0.02)
        self.query = nn.Parameter(torch.randn(len(QUESTIONS), channels) * 0.5)
        self.mix_norm = nn.LayerNorm(channels)
        self.mix = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.think_norm = nn.LayerNorm(channels)
        self.think = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )
        self.look_norm = nn.LayerNorm(channels)
        self.look = nn.MultiheadAttention(channels, heads, batch_first=True)
        width = 2 * channels + details
        self.answers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(options)))
            for options in QUESTIONS.values()
        )

    def mixed(self, features: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same, every cell knowing of all others."""
        tokens = features.flatten(2).transpose(1, 2) + self.place
        calm = self.mix_norm(tokens)
        # Asking for the weights avoids the fused kernel, whose backward pass is slow on a CPU.
        tokens = tokens + self.mix(calm, calm, calm, need_weights=True)[0]
        tokens = tokens + self.think(self.think_norm(tokens))
        mixed: Tensor = tokens.transpose(1, 2).reshape(features.shape)
        return mixed

    def forward(self, features: Tensor, details: Tensor) -> tuple[Tensor, ...]:
        """(n, channels, h, w) and (n, details) -> per question (n, options) logits."""
        tokens = features.flatten(2).transpose(1, 2)
        seen = self.look_norm(tokens)
        query = self.query.expand(len(tokens), -1, -1)
        found = self.look(query, seen, seen, need_weights=True)[0]  # n questions channels
        common = torch.cat((tokens.mean(1), details), 1)
        return tuple(
            head(torch.cat((found[:, k], common), 1)) for k, head in enumerate(self.answers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the network says of n pictures, before any choice is made.

    Attributes:
        logits: question -> (n, options).
        colours: (n, 3, 3) sRGB in [0, 1] of `COLOURED`.
        mask: (n, 1, SIZE, SIZE) logits of the foreground.
        paint: (n, 3, SIZE, SIZE) logits of each of `COLOURED` being what a pixel shows.
        keypoints: (n, len(KEYPOINTS), 2) pixels (x, y) in [0, SIZE].
    """

    logits: Mapping[str, Tensor]
    colours: Tensor
    mask: Tensor
    paint: Tensor
    keypoints: Tensor


class InspectorNetwork(nn.Module):
    """Pictures in, `Answers` out; 2.5 million weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 48, 96, 192)
        # Full resolution is left at once: that is where convolutions cost most.
        self.stem = nn.Conv2d(3 * _FOLD**2, widths[0], 4, stride=2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Residual(width) for _ in range(count)))
            for width, count in zip(widths, (1, 1, 2, 2), strict=True)
        )
        pairs = tuple(pairwise(widths))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        # What is fine (a pattern, a collar) is read off the decoder, over the foreground alone.
        self.detail = nn.Conv2d(widths[1], _DETAILS, 1)
        self.reader = _Reader(widths[-1], (SIZE // 32) ** 2, 2 * _DETAILS)
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.join = _Residual(widths[1])
        # Four maps (mask and `COLOURED`) of 4 x 4 pixels per cell of the finest scale.
        self.finish = nn.Sequential(
            _norm(widths[0]),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[0], (2 * _FOLD) ** 2 * (1 + len(COLOURED)), 3, padding=1),
        )
        # Joints are found where much is known of the whole: on the second finest scale.
        self.joints = nn.Sequential(
            _norm(widths[1]),
            nn.ReLU(),
            nn.Conv2d(widths[1], widths[2], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[2], len(KEYPOINTS), 1),
        )

    def features(self, pictures: Tensor) -> Tensor:
        """(n, 3, SIZE, SIZE) sRGB in [0, 1] -> (n, 192, SIZE / 32, SIZE / 32): what is where."""
        return self.reader.mixed(self._scales(pictures)[-1])

    def _scales(self, pictures: Tensor) -> list[Tensor]:
        x = self.stem(F.pixel_unshuffle(pictures * 2 - 1, _FOLD))
        scales = []
        for k, stage in enumerate(self.stages):
            x = stage(x if k == 0 else self.downs[k - 1](x))
            scales.append(x)
        return scales

    def forward(self, pictures: Tensor) -> Answers:
        """(n, 3, SIZE, SIZE) sRGB in [0, 1] -> `Answers`, float32."""
        scales = self._scales(pictures)
        # The muzzle tells which of two colours is the accent, all over the body.
        top = x = self.reader.mixed(scales[-1])
        for k in reversed(range(len(self.ups))):
            x = scales[k] + F.interpolate(self.ups[k](x), scale_factor=2, mode="nearest")
            if k == 1:  # once, at an eighth of full resolution: the rest is adding
                x = self.join(x)
                details = F.relu(self.detail(x))
                joints = self.joints(x).float()
        maps = F.pixel_shuffle(self.finish(x), 2 * _FOLD).float()  # n 4 SIZE SIZE
        mask, paint = maps[:, :1], maps[:, 1:]
        colours = _colours(pictures.float(), mask, paint)
        logits = self.reader(top, _pooled(details, mask.detach().sigmoid()))
        return Answers(
            logits={q: v.float() for q, v in zip(QUESTIONS, logits, strict=True)},
            colours=colours,
            mask=mask,
            paint=paint,
            keypoints=_centres(joints) * SIZE,
        )


def _pooled(features: Tensor, mask: Tensor) -> Tensor:
    """(n, c, h, w), (n, 1, H, W) -> (n, 2 c) mean and peak over the foreground."""
    height, width = features.shape[-2:]
    weight = F.adaptive_avg_pool2d(mask, (height, width)).to(features.dtype)
    lit = features * weight
    mean = lit.sum((2, 3)) / weight.sum((2, 3)).clamp(min=1)
    return torch.cat((mean, lit.amax((2, 3))), 1)


def _centres(maps: Tensor) -> Tensor:
    """(n, k, h, w) logits -> (n, k, 2) mean places (x, y), shares of the width and the height.

    Integral regression (Sun et al. 2018): finer than a cell, and has a gradient everywhere.
    """
    height, width = maps.shape[-2:]
    odds = maps.flatten(2).softmax(-1).unflatten(2, (height, width))
    x = (torch.arange(width, device=maps.device) + 0.5) / width
    y = (torch.arange(height, device=maps.device) + 0.5) / height
    return torch.stack(((odds.sum(2) * x).sum(-1), (odds.sum(3) * y).sum(-1)), -1)


def _colours(pictures: Tensor, mask: Tensor, paint: Tensor) -> Tensor:
    """(n, 3, h, w) sRGB, (n, 1, h, w) and (n, 3, h, w) logits -> (n, 3, 3) sRGB of `COLOURED`.

    Each is an average over all pixels, weighted by a softmax of what the network thinks of them.
    Where a pattern covers half of the animal the two colours look alike to the network; but the
    accent is sure (it is the muzzle's), and the coat is what is not of the accent's colour.
    """
    pixels = pictures.flatten(2).transpose(1, 2)  # n pixels 3
    thought = (paint + F.logsigmoid(mask)).flatten(2)  # n 3 pixels
    colours = thought[:, 1:].softmax(-1) @ pixels
    apart = (pixels - colours[:, :1].detach()).square().sum(-1)
    held_back = _PENALTY * torch.exp(-apart / (2 * _ALIKE**2))
    coat = (thought[:, 0] - held_back).softmax(-1)[:, None] @ pixels
    return torch.cat((coat, colours), 1)
