"""The measuring instrument: a small network that reads a picture of the puppet world.

It plays the part that CLIP and DINO play on photographs, with known accuracy: ``config.json``
beside the weights says how often it is right on held-out scenes. Colours are not guessed from
features: the network says where coat, accent and collar are seen, and their colour is averaged
there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.puppets.colour import srgb_to_lab
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
SIZE: Final = 128  # side of the pictures the network works on, pixels
_AT_ONCE: Final = 64  # pictures read at once
_DETAILS: Final = 96  # channels of fine features that are pooled over the foreground


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
        return tokens.transpose(1, 2).reshape(features.shape)

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
    """

    logits: Mapping[str, Tensor]
    colours: Tensor
    mask: Tensor
    paint: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What n pictures show.

    Attributes:
        species, action, facing, place, shot, pattern: n names each, as in `masactrl.puppets.scene`.
        collar: n times whether the animal wears one.
        probabilities: question -> (n, options), options in the order of `QUESTIONS`.
        coat, accent, collar_colour: (n, 3) CIELAB; the last means nothing without a collar.
        mask: (n, 1, h, w) probability of foreground, at the size of the pictures.
    """

    species: tuple[str, ...]
    action: tuple[str, ...]
    facing: tuple[str, ...]
    place: tuple[str, ...]
    shot: tuple[str, ...]
    pattern: tuple[str, ...]
    collar: tuple[bool, ...]
    probabilities: Mapping[str, Tensor]
    coat: Tensor
    accent: Tensor
    collar_colour: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.species)


class Inspector(nn.Module):
    """The network: four scales of residual convolutions, a reader on top, a decoder for maps.

    ``accuracy`` holds the held-out figures that came with the weights (empty when untrained).
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy: Mapping[str, float] = {}
        widths = (32, 48, 96, 192)
        # Full resolution is left at once: that is where convolutions are dear.
        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Residual(width) for _ in range(count)))
            for width, count in zip(widths, (1, 1, 2, 2), strict=True)
        )
        pairs = tuple(pairwise(widths))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        # What is fine (a pattern, a collar) is read off the decoder, over the foreground alone.
        self.detail = nn.Conv2d(widths[1], _DETAILS, 1)
        self.reader = _Reader(widths[-1], (SIZE // 16) ** 2, 2 * _DETAILS)
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.join = _Residual(widths[1])
        # Four maps (mask and `COLOURED`) of 2 x 2 pixels per cell of the finest scale.
        self.finish = nn.Sequential(
            _norm(widths[0]),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[0], 4 * (1 + len(COLOURED)), 3, padding=1),
        )

    def forward(self, pictures: Tensor) -> Answers:
        """(n, 3, SIZE, SIZE) sRGB in [0, 1] -> `Answers`, float32."""
        x = self.stem(pictures * 2 - 1)
        scales = []
        for k, stage in enumerate(self.stages):
            x = stage(x if k == 0 else self.downs[k - 1](x))
            scales.append(x)
        # The muzzle tells which of two colours is the accent, all over the body.
        top = x = self.reader.mixed(x)
        for k in reversed(range(len(self.ups))):
            x = scales[k] + F.interpolate(self.ups[k](x), scale_factor=2, mode="nearest")
            if k == 1:  # once, at a quarter of full resolution: the rest is adding
                x = self.join(x)
                details = F.relu(self.detail(x))
        maps = F.pixel_shuffle(self.finish(x), 2).float()  # n 4 SIZE SIZE
        mask, paint = maps[:, :1], maps[:, 1:]
        # Where each colour is read: a share of every pixel, starting from the foreground.
        share = (paint + F.logsigmoid(mask)).flatten(2).softmax(-1)
        colours = share @ pictures.float().flatten(2).transpose(1, 2)
        logits = self.reader(top, _pooled(details, mask.detach().sigmoid()))
        return Answers(
            logits={q: v.float() for q, v in zip(QUESTIONS, logits, strict=True)},
            colours=colours,
            mask=mask,
            paint=paint,
        )

    @torch.no_grad()
    def read(self, images: Tensor) -> Reading:
        """Read pictures (n, 3, h, w), sRGB in [0, 1], any size (squeezed to a square for reading).

        Raises:
            ConfigError: another shape, no picture, or values that are no numbers.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
            raise ConfigError(f"pictures must have shape (n, 3, h, w), not {tuple(images.shape)}.")
        if not bool(images.isfinite().all()):
            raise ConfigError("the pictures hold values that are no numbers and cannot be read.")
        device = self.stem.weight.device
        parts = [self(resized(part.to(device))) for part in images.split(_AT_ONCE)]
        odds = {q: torch.cat([p.logits[q] for p in parts]).softmax(1).cpu() for q in QUESTIONS}
        names = {
            q: tuple(QUESTIONS[q][i] for i in values.argmax(1).tolist())
            for q, values in odds.items()
        }
        lab = srgb_to_lab(torch.cat([p.colours for p in parts])).cpu()
        mask = torch.cat([p.mask for p in parts]).sigmoid()
        collar = tuple(answer == "yes" for answer in names.pop("collar"))
        return Reading(
            **names,
            collar=collar,
            probabilities=MappingProxyType(odds),
            coat=lab[:, 0],
            accent=lab[:, 1],
            collar_colour=lab[:, 2],
            mask=_fitted(mask, images.shape[-2:]).cpu(),
        )

    @classmethod
    def load(cls, folder: Path | None = None, *, device: str | torch.device = "cpu") -> Self:
        """The trained inspector of this package, frozen, float32, or the one in ``folder``.

        Raises:
            ModelNotFound: there are no weights, or they cannot be read.
            ConfigError: they were trained on another world.
        """
        folder = folder or default_folder()
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
            state = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelNotFound(f"no inspector can be read from {folder}: {error}") from error
        known = {q: tuple(options) for q, options in config.get("questions", {}).items()}
        if known != dict(QUESTIONS):
            raise ConfigError(f"the inspector in {folder} was trained on another puppet world.")
        inspector = cls()
        inspector.load_state_dict({name: value.float() for name, value in state.items()})
        inspector.accuracy = dict(config.get("accuracy", {}))
        return inspector.requires_grad_(False).eval().to(device)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (float16) and ``config.json`` with `accuracy`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {n: v.half().cpu().contiguous() for n, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        config = {"questions": dict(QUESTIONS), "size": SIZE, "accuracy": dict(self.accuracy)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _pooled(features: Tensor, mask: Tensor) -> Tensor:
    """(n, c, h, w), (n, 1, H, W) -> (n, 2 c) mean and peak over the foreground."""
    weight = F.adaptive_avg_pool2d(mask, features.shape[-2:]).to(features.dtype)
    lit = features * weight
    mean = lit.sum((2, 3)) / weight.sum((2, 3)).clamp(min=1)
    return torch.cat((mean, lit.amax((2, 3))), 1)


def default_folder() -> Path:
    """Where the package keeps the inspector's weights."""
    return Path(str(resources.files("masactrl") / "puppets" / "weights" / "inspector"))


def resized(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 3, SIZE, SIZE) float32 in [0, 1], antialiased."""
    return _fitted(pictures.float(), (SIZE, SIZE)).clamp(0, 1)


def _fitted(pictures: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(pictures.shape[-2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, tuple(size), mode="bilinear", antialias=True)
