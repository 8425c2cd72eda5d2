"""The measuring instrument: a small network that reads a picture of the puppet world.

It plays the part that CLIP and DINO play on photographs, with known accuracy: ``config.json``
beside the weights says how often it is right on held-out scenes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.puppets.colour import srgb_to_lab
from masactrl.puppets.identity import colours_shown
from masactrl.puppets.inspector_network import QUESTIONS, SIZE, Answers, InspectorNetwork
from masactrl.settings.torch_defaults import torch_defaults

__all__ = ["QUESTIONS", "SIZE", "Inspector", "Reading", "default_folder", "resized"]

_AT_ONCE: Final = 64  # pictures read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What n pictures show.

    Attributes:
        species, action, facing, place, shot, pattern: n names each, as in `masactrl.puppets.scene`.
        collar: n times whether the animal wears one.
        probabilities: question -> (n, options), options in the order of `QUESTIONS`.
        coat, accent, collar_colour: (n, 3) CIELAB; the last means nothing without a collar.
        mask: (n, 1, h, w) probability of foreground, at the size of the pictures.
        keypoints: (n, len(KEYPOINTS), 2) pixels (x, y) of the pictures, those of `anatomy`; of a
            joint outside the picture it means nothing.
        shown: (n, directions, quantiles) the colours of the foreground, see
            `masactrl.puppets.identity`.
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
    keypoints: Tensor
    shown: Tensor

    def __len__(self) -> int:
        return len(self.species)


class Inspector(InspectorNetwork):
    """The network with its weights' story: reading, loading, saving.

    ``accuracy`` holds the held-out figures that came with the weights (empty when untrained).
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy: Mapping[str, float] = {}

    @torch_defaults()
    @torch.no_grad()
    def read(self, images: Tensor) -> Reading:
        """Read pictures (n, 3, h, w), sRGB in [0, 1], any size (squeezed to a square for reading).

        Every picture is read as it is and mirrored, and the two answers are averaged.

        Raises:
            ConfigError: another shape, no picture, or NaN or infinite values.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
            raise ConfigError(f"pictures must have shape (n, 3, h, w), not {tuple(images.shape)}.")
        if not bool(images.isfinite().all()):
            raise ConfigError("the pictures hold NaN or infinite values and cannot be read.")
        device = self.stem.weight.device
        parts = [self._both_ways(resized(part.to(device))) for part in images.split(_AT_ONCE)]
        odds = {q: torch.cat([p.logits[q] for p in parts]).softmax(1).cpu() for q in QUESTIONS}
        names = {
            q: tuple(QUESTIONS[q][i] for i in values.argmax(1).tolist())
            for q, values in odds.items()
        }
        lab = srgb_to_lab(torch.cat([p.colours for p in parts])).cpu()
        mask = torch.cat([p.mask for p in parts]).sigmoid()
        mask = _fitted(mask, images.shape[-2:]).cpu()
        collar = tuple(answer == "yes" for answer in names.pop("collar"))
        return Reading(
            **names,
            collar=collar,
            probabilities=MappingProxyType(odds),
            coat=lab[:, 0],
            accent=lab[:, 1],
            collar_colour=lab[:, 2],
            mask=mask,
            keypoints=torch.cat([p.keypoints for p in parts]).cpu() * _sides(images) / SIZE,
            shown=colours_shown(images.float().cpu(), mask),
        )

    def _both_ways(self, pictures: Tensor) -> Answers:
        """The mean of what is seen in the pictures and in their mirror images."""
        plain, mirrored = self(pictures), self(pictures.flip(-1))
        logits = dict(mirrored.logits)
        logits["facing"] = logits["facing"].flip(-1)  # left is right, and the other way round
        joints = mirrored.keypoints.clone()
        joints[..., 0] = SIZE - joints[..., 0]
        return Answers(
            logits={q: (plain.logits[q] + logits[q]) / 2 for q in logits},
            colours=(plain.colours + mirrored.colours) / 2,
            mask=(plain.mask + mirrored.mask.flip(-1)) / 2,
            paint=(plain.paint + mirrored.paint.flip(-1)) / 2,
            keypoints=(plain.keypoints + joints) / 2,
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
        try:
            inspector.load_state_dict({name: value.float() for name, value in state.items()})
        except RuntimeError as error:
            raise ModelNotFound(
                f"the weights in {folder} are of another version of the inspector: {error}"
            ) from error
        inspector.accuracy = dict(config.get("accuracy", {}))
        return inspector.requires_grad_(False).eval().to(device)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (float16) and ``config.json`` with `accuracy`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {n: v.half().cpu().contiguous() for n, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        config = {"questions": dict(QUESTIONS), "size": SIZE, "accuracy": dict(self.accuracy)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def default_folder() -> Path:
    """Where the package keeps the inspector's weights."""
    return Path(str(resources.files("masactrl") / "puppets" / "weights" / "inspector"))


def _sides(pictures: Tensor) -> Tensor:
    """(2,) width and height."""
    return torch.tensor((float(pictures.shape[-1]), float(pictures.shape[-2])))


def resized(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 3, SIZE, SIZE) float32 in [0, 1], antialiased."""
    return _fitted(pictures.float(), (SIZE, SIZE)).clamp(0, 1)


def _fitted(pictures: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(pictures.shape[-2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, tuple(size), mode="bilinear", antialias=True)
