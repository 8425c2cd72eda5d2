r"""Animations measured where the right answer is known: gaits of the small world.

Each clip has a source, one noise, and a skeleton for every frame, and is made three times:

    layout                    every frame for itself, led by its skeleton
    MasaCtrl                  led, and reading the source
    MasaCtrl, first frame     led, and reading the source and the first frame

    identity error      of every frame against the source
    flicker             sliced Wasserstein distance, in CIELAB, of the animal's colours between
                        neighbouring frames
    warped error        CIELAB distance of a point of the animal to itself in the next frame, where
                        the renderer's exact motion says that it is
    pose IoU, joints    against the renderer's foreground and joints
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.errors import ConfigError
from masactrl.pictures.images import image_to_tensor
from masactrl.puppets.colour import lab_distance, srgb_to_lab
from masactrl.puppets.gaits import GAITS, gait_scenes, gait_skeleton
from masactrl.puppets.identity import colour_distance, identity
from masactrl.puppets.motion import exact_motion
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import FACINGS, PLACES, SPECIES
from masactrl.puppets.training.data import HELD_OUT_SEED
from masactrl.runs.layout import Layout
from masactrl.runs.request import GenerateRequest
from masactrl.studies.animate import animate

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.puppets.inspector import Inspector
    from masactrl.puppets.scene import Scene

__all__ = ["COLUMNS", "AnimationFigures", "Clip", "clip_figures", "clips_of", "measure_animations"]

COLUMNS: Final = ("layout", "MasaCtrl", "MasaCtrl, first frame")
_NEAR: Final = 0.05  # of the picture's height, within which a joint counts as found


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One animation: a gait of an animal somewhere, and the seed of its noise."""

    gait: str
    species: str
    facing: str
    place: str
    seed: int

    def prompts(self) -> tuple[str, str]:
        """What source and frames show."""
        from masactrl.puppets.captions import full_prompt

        source = full_prompt(self.species, "standing", self.place, self.facing)
        return source, source.replace(" standing", "", 1)

    def scenes(self, frames: int) -> tuple[Scene, ...]:
        """The frames' exact poses, of an animal of any colour."""
        return gait_scenes(self.gait, frames, species=self.species, facing=self.facing)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimationFigures:
    """What was measured.

    Attributes:
        rows: column -> figure of the head of this file -> mean over all clips.
        samples: the source, and the frames of every column, of the first clip.
    """

    rows: Mapping[str, Mapping[str, float]]
    samples: tuple[Image.Image, Mapping[str, tuple[Image.Image, ...]]]


def clips_of(count: int, *, seed: int = 0) -> tuple[Clip, ...]:
    """Draw clips: the gaits in turn, of animals and places by chance."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED + 23 + seed)

    def one_of(names: tuple[str, ...]) -> str:
        return names[int(torch.randint(len(names), (), generator=generator))]

    return tuple(
        Clip(
            gait=GAITS[(seed + number) % len(GAITS)],
            species=one_of(SPECIES),
            facing=one_of(FACINGS),
            place=one_of(PLACES),
            seed=seed + number,
        )
        for number in range(count)
    )


def measure_animations(
    model: LoadedModel,
    inspector: Inspector,
    *,
    start_step: int,
    start_layer: int,
    count: int = 20,
    frames: int = 24,
    steps: int = 20,
    guidance: float = 4.0,
    batch: int = 4,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> AnimationFigures:
    """Make clips with and without MasaCtrl and the first frame, and compare with the right answers.

    Args:
        model: the embedded one.
        inspector: reads the frames.
        start_step, start_layer: S and L.
        count: clips, at least 1.
        frames: of a clip, at least 2.
        steps, guidance: of the runs.
        batch: frames made at once.
        seed: of clips and noise.
        on_progress: called after every animation of each clip with how many are done.

    Raises:
        ConfigError: ``count`` is below 1, or ``frames`` below 2.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}.")
    sums: dict[str, dict[str, list[Tensor]]] = {name: {} for name in COLUMNS}
    samples: tuple[Any, dict[str, tuple[Image.Image, ...]]] = (None, {})
    size = model.preset.height
    for number, clip in enumerate(clips_of(count, seed=seed)):
        source_prompt, target_prompt = clip.prompts()
        request = GenerateRequest(
            source_prompt=source_prompt,
            target_prompts=(target_prompt,),
            seed=clip.seed,
            steps=steps,
            guidance_scale=guidance,
            start_step=start_step,
            start_layer=start_layer,
        )
        where: dict[str, Any] = {"species": clip.species, "facing": clip.facing, "size": size}
        skeletons = [gait_skeleton(clip.gait, frames, k, **where) for k in range(frames)]
        poses = Layout(kind="pose", pictures=tuple(skeletons))
        for place, column in enumerate(COLUMNS):
            asked = request if place else replace(request, strength=0.0)
            made = animate(model, asked, poses, batch=batch, first_frame=place == 2)
            if number == 0:
                samples = made.source, {**samples[1], column: made.frames}
            pictures = torch.stack([image_to_tensor(one, signed=False) for one in made.frames])
            source = image_to_tensor(made.source, signed=False)[None]
            figures = clip_figures(inspector, source, pictures, clip.scenes(frames))
            for name, value in figures.items():
                sums[column].setdefault(name, []).append(value)
            if on_progress is not None:
                on_progress(len(COLUMNS) * number + place + 1, len(COLUMNS) * count)
    means = {
        column: {name: torch.stack(values).mean().item() for name, values in found.items()}
        for column, found in sums.items()
    }
    return AnimationFigures(rows=means, samples=samples)


def clip_figures(
    inspector: Inspector, source: Tensor, frames: Tensor, scenes: tuple[Scene, ...]
) -> dict[str, Tensor]:
    """Return the figures of one clip, each a mean over its frames.

    Args:
        inspector: reads the pictures.
        source: (1, 3, h, h) in [0, 1].
        frames: (n, 3, h, h) in [0, 1].
        scenes: n exact poses.
    """
    size = frames.shape[-1]
    was, seen, right = inspector.read(source), inspector.read(frames), render(scenes, size)
    inside, there = seen.mask > 0.5, right.mask > 0.5
    both, either = (inside & there).sum((1, 2, 3)), (inside | there).sum((1, 2, 3))
    apart = (seen.keypoints - right.keypoints).norm(dim=-1)
    moved, known = exact_motion(scenes, size)
    after = F.grid_sample(frames[1:], moved / size * 2 - 1, align_corners=False)
    change = lab_distance(_lab(frames[:-1]), _lab(after))
    return {
        "pose IoU": (both / either.clamp(min=1)).mean(),
        "joints": (apart < _NEAR * size).float().mean(),
        "identity error": identity(was, seen).error.mean(),
        "flicker": colour_distance(seen.shown[:-1], seen.shown[1:]).mean(),
        "warped error": change[known].mean(),
    }


def _lab(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) sRGB -> (n, h, w, 3) CIELAB."""
    return srgb_to_lab(pictures.movedim(1, -1))
