"""Layouts made from pictures: edges, depth, and the pose of a person, as ControlNets read them.

    edges    OpenCV's Canny, white lines on black
    depth    a depth model of transformers, near is bright
    pose     a ViTPose of transformers, limbs in OpenPose's colours on black; one person, who fills
             the picture as ViTPose's own crops do

Depth and pose need weights: a folder, or a Hub id, which is downloaded once (`MAKERS` says which).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw

from masactrl.errors import ConfigError, MasaCtrlError, ModelNotFound
from masactrl.pictures.edges import canny

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["KINDS", "MAKERS", "Maker", "downloads", "draw_person", "make_layout"]

KINDS: Final = ("edges", "depth", "pose")


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """A model that makes a kind of layout where nobody names another.

    Attributes:
        hub: its Hub id.
        megabytes: that are downloaded, about.
        terms: its licence.
    """

    hub: str
    megabytes: int
    terms: str


MAKERS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "depth": Maker(
            hub="depth-anything/Depth-Anything-V2-Small-hf", megabytes=100, terms="Apache-2.0"
        ),
        "pose": Maker(hub="usyd-community/vitpose-base-simple", megabytes=350, terms="Apache-2.0"),
    }
)

# COCO's joints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before
# right; 17 is the neck, between the shoulders. Limbs and their order are OpenPose's.
_LIMBS: Final = (
    *((17, 6), (17, 5), (6, 8), (8, 10), (5, 7), (7, 9)),
    *((17, 12), (12, 14), (14, 16), (17, 11), (11, 13), (13, 15)),
    *((17, 0), (0, 2), (2, 4), (0, 1), (1, 3)),
)
_SURE: Final = 0.3  # of the heat of a joint, below which it is not drawn
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as ViTPose has them
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError)


def make_layout(kind: str, picture: Image.Image, model: str | None = None) -> Image.Image:
    """Return the layout of a picture, of its size.

    Args:
        kind: one of `KINDS`.
        picture: RGB.
        model: folder or Hub id of a depth model or a ViTPose of transformers; None is that of
            `MAKERS`.

    Raises:
        ConfigError: the kind is unknown, edges are given a model, or nobody is found.
        ModelNotFound: the model cannot be read, or is of another kind.
        MissingExtra: OpenCV is not installed, which finds edges.
    """
    if kind not in KINDS:
        raise ConfigError(f"{kind!r} was given; layouts can be made of {', '.join(KINDS)}.")
    if kind == "edges":
        if model is not None:
            raise ConfigError("Edges are found without a model; leave it out.")
        return Image.fromarray(canny(np.asarray(picture.convert("RGB")))).convert("RGB")
    name = model or MAKERS[kind].hub
    try:
        return _depth(picture, name) if kind == "depth" else _pose(picture, name)
    except MasaCtrlError:
        raise
    except _UNREADABLE as error:
        raise ModelNotFound(f"No model for {kind} can be read from {name}: {error}") from error


@torch.no_grad()
def _depth(picture: Image.Image, name: str) -> Image.Image:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    processor: Any = AutoImageProcessor.from_pretrained(name)
    network: Any = AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True).eval()
    given = processor(images=picture.convert("RGB"), return_tensors="pt")
    size = [(picture.height, picture.width)]
    (found,) = processor.post_process_depth_estimation(network(**given), target_sizes=size)
    near: Tensor = found["predicted_depth"].float()
    span = near.max() - near.min()
    shown = (near - near.min()) / torch.where(span > 0, span, torch.ones_like(span)) * 255
    return Image.fromarray(shown.round().byte().numpy()).convert("RGB")


@torch.no_grad()
def _pose(picture: Image.Image, name: str) -> Image.Image:
    from transformers import VitPoseForPoseEstimation

    network: Any = VitPoseForPoseEstimation.from_pretrained(name, use_safetensors=True).eval()
    height, width = (int(side) for side in network.config.backbone_config.image_size)
    # The whole picture in the middle of ViTPose's upright window.
    factor = min(width / picture.width, height / picture.height)
    inner = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    window = Image.new("RGB", (width, height))
    window.paste(picture.convert("RGB").resize(inner, Image.Resampling.BICUBIC), (left, top))
    values = torch.from_numpy(np.asarray(window).copy()).permute(2, 0, 1) / 255
    mean, deviation = (torch.tensor(one)[:, None, None] for one in (_MEAN, _DEVIATION))
    heat: Tensor = network(((values - mean) / deviation)[None]).heatmaps[0]  # joints h w
    rows, columns = heat.shape[-2:]
    best, place = heat.flatten(1).max(1)
    x = (place % columns + 0.5) * width / columns
    y = (place // columns + 0.5) * height / rows
    joints = torch.stack(((x - left) / factor, (y - top) / factor), 1)
    return draw_person(joints, best, picture.size)


def draw_person(joints: Tensor, sure: Tensor, size: tuple[int, int]) -> Image.Image:
    """Return a person's limbs in OpenPose's colours on black.

    Args:
        joints: (17, 2) pixels (x, y), those of COCO in its order.
        sure: (17,) how sure each is, 0 to 1; below 0.3 a joint and its limbs are left out.
        size: width and height of the picture.

    Raises:
        ConfigError: there are other joints, or no limb can be drawn.
    """
    if joints.shape != (17, 2):
        raise ConfigError(f"A person has 17 joints (x, y), and {tuple(joints.shape)} were given.")
    neck = joints[5:7].mean(0, keepdim=True)
    places = torch.cat((joints, neck)).tolist()
    known = [*(float(one) >= _SURE for one in sure)]
    known.append(known[5] and known[6])
    drawn = Image.new("RGB", size)
    pen = ImageDraw.Draw(drawn)
    wide, limbs = max(2, min(size) // 64), 0
    for number, (first, second) in enumerate(_LIMBS):
        if not (known[first] and known[second]):
            continue
        limbs += 1
        colour = colorsys.hsv_to_rgb(number / len(_LIMBS), 1, 1)
        shade = tuple(round(153 * part) for part in colour)  # OpenPose's limbs are 60 % as bright
        pen.line([*places[first], *places[second]], fill=shade, width=wide)
    for number, (place, there) in enumerate(zip(places, known, strict=True)):
        colour = colorsys.hsv_to_rgb(number / len(places), 1, 1)
        if there:
            pen.circle(place, wide, fill=tuple(round(255 * part) for part in colour))
    if not limbs:
        raise ConfigError("Nobody was found in the picture whose limbs could be drawn.")
    return drawn


def downloads(kind: str, model: str | None) -> str | None:
    """Say what making a kind of layout downloads, the first time; None where it is nothing."""
    if kind not in MAKERS or (model is not None and Path(model).exists()):
        return None
    maker = MAKERS[kind]
    if model is not None and model != maker.hub:
        return f"{kind} is made by {model}, which is downloaded from the Hub once."
    return (
        f"{kind} is made by {maker.hub} ({maker.terms}), about {maker.megabytes} MB, which are "
        "downloaded from the Hub once."
    )
