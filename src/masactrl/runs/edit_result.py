"""What an edit gives back: pictures, how well the source came back, costs, and the way to disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from masactrl.pictures.images import Tile, contact_sheet, png_bytes
from masactrl.runs.layout import stated_files
from masactrl.runs.recipe import InputStated, ModelStated, Recipe
from masactrl.runs.result import SHEET, TITLES, prepare_folder, write_pictures

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from masactrl.runs.edit_request import Features, ResolvedEdit
    from masactrl.runs.inversion_request import InversionRequest
    from masactrl.runs.reconstruction import Reconstruction

__all__ = ["EditResult", "EditedTarget", "edit_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedTarget:
    """What became of one target prompt.

    Attributes:
        prompt: the target prompt.
        controlled: the picture with control.
        uncontrolled: the same without; None where no comparison was asked for.
        mask: the target's mask, white for the subject; None where none was used.
    """

    prompt: str
    controlled: Image.Image
    uncontrolled: Image.Image | None = None
    mask: Image.Image | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """The pictures of one edit; all have the size of the input.

    Attributes:
        picture: the input, upright, RGB.
        reconstruction: the input as it came back.
        targets: one per target prompt, in order.
        quality: how well it came back.
        mask: the source's mask, white for the subject; None where none was used.
        request: what was run, nothing left open.
        inversion: how the picture was inverted.
        trajectory: the recipe of its trajectory.
        seconds: by part: invert, source (recording its features), edit, decode; 0 for a part that
            an earlier edit of the session had done.
        passes: rows that went through the U-Net, by part.
        cache_bytes: of the recorded source features.
        peak_bytes: most memory that the edit held on a CUDA device; None elsewhere.
        model: the model's name.
        device: kind of device it ran on, for example "cpu".
        dtype: precision of the U-Net, for example "float32".
        warnings: sentences about what was probably not meant, see `masactrl.runs.prompts`.
        stated: what recipes say of the model; None says its name only.
        inputs: name and hash of the input, where it was a file.
        latents: name of a picture, reconstruction included -> its final latents (c, h / 8, w / 8),
            float32 on the CPU, as large as the framed picture.
    """

    picture: Image.Image
    reconstruction: Image.Image
    targets: tuple[EditedTarget, ...]
    quality: Reconstruction
    mask: Image.Image | None
    request: ResolvedEdit
    inversion: InversionRequest
    trajectory: Mapping[str, Any]
    seconds: Mapping[str, float]
    passes: Mapping[str, int]
    cache_bytes: int
    peak_bytes: int | None
    model: str
    device: str
    dtype: str
    warnings: tuple[str, ...] = ()
    stated: ModelStated | None = None
    inputs: tuple[InputStated, ...] = ()
    latents: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def features(self) -> Features:
        """How targets came by the source's features, see `masactrl.runs.edit_request.Features`."""
        return self.request.features

    @property
    def source(self) -> Image.Image:
        """The source as the model makes it, which is the reconstruction."""
        return self.reconstruction

    def to_sheet(self) -> Image.Image:
        """Return one picture: per target a row of input, reconstruction, without, with control."""
        twins = self.request.compare
        headers = ["input", "reconstruction", *(["same noise, no control"] if twins else [])]
        title = TITLES.get(self.request.method, self.request.method)
        rows = []
        for target in self.targets:
            row = [
                Tile(image=self.picture, caption=str(self.trajectory["prompt"])),
                Tile(image=self.reconstruction, caption=_decibels(self.quality)),
            ]
            if target.uncontrolled is not None:
                row.append(Tile(image=target.uncontrolled, caption=target.prompt))
            rows.append([*row, Tile(image=target.controlled, caption=target.prompt)])
        return contact_sheet(rows, headers=[*headers, title])

    def pictures(self) -> dict[str, Image.Image]:
        """Return every single picture under the name that `save` gives it."""
        named = {"input": self.picture, "reconstruction": self.reconstruction}
        if self.mask is not None:
            named["mask"] = self.mask
        for number, target in enumerate(self.targets, start=1):
            if target.uncontrolled is not None:
                named[f"target{number}-uncontrolled"] = target.uncontrolled
            named[f"target{number}-controlled"] = target.controlled
            if target.mask is not None:
                named[f"target{number}-mask"] = target.mask
        return named

    def recipe(self, picture: str) -> Recipe:
        """Return how the picture of that name was made."""
        masks = self.request.masks
        # Nothing is left open that a model's preset or a session's file decided.
        made = {"steps": self.request.steps, "guidance_scale": float(self.trajectory["guidance"])}
        return Recipe(
            kind="edit",
            picture=picture,
            model=self.stated or ModelStated(name=self.model),
            device=self.device,
            dtype=self.dtype,
            request={**self.request.recipe(), "inversion": asdict(self.inversion) | made},
            inputs=(
                *self.inputs,
                *(() if masks is None else masks.stated),
                *stated_files(self.request.layouts),
            ),
        )

    def prompts(self) -> dict[str, str]:
        """Return the prompts of the targets' pictures, under the names of `pictures`."""
        return {
            f"target{number}-{kind}": target.prompt
            for number, target in enumerate(self.targets, start=1)
            for kind in ("uncontrolled", "controlled")
        }

    def report(self) -> dict[str, Any]:
        """Return quality and costs as values that JSON knows; an infinite ratio is None."""
        return {
            "quality": {
                name: None if math.isinf(value) else round(value, 2)
                for name, value in asdict(self.quality).items()
            },
            "seconds": {part: round(value, 3) for part, value in self.seconds.items()},
            "passes": dict(self.passes),
            "features": self.features,
            "cache_bytes": self.cache_bytes,
            "peak_bytes": self.peak_bytes,
        }

    def save(
        self, folder: Path, *, overwrite: bool = False, metadata: bool = True
    ) -> tuple[Path, ...]:
        """Write every picture and the sheet as PNG; return their paths.

        Args:
            folder: where to; made if it does not exist.
            overwrite: whether files of these names may be replaced.
            metadata: whether every picture carries its recipe, and the sheet's lies beside it.

        Raises:
            OutputError: it cannot be written, or would replace a file.
        """
        pictures = {**self.pictures(), SHEET: self.to_sheet()}
        prepare_folder(folder, pictures, overwrite=overwrite)
        recipe = self.recipe(SHEET) if metadata else None
        return write_pictures(folder, pictures, recipe, prompts=self.prompts())

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        return png_bytes(self.to_sheet())


def edit_names(targets: int, *, compare: bool, masks: bool) -> tuple[str, ...]:
    """Return the names of all pictures that `EditResult.save` writes, the sheet included."""
    names = ["input", "reconstruction", *(["mask"] if masks else [])]
    kinds = ["uncontrolled"] * compare + ["controlled"] + ["mask"] * masks
    for number in range(1, targets + 1):
        names += [f"target{number}-{kind}" for kind in kinds]
    return (*names, SHEET)


def _decibels(quality: Reconstruction) -> str:
    return f"{quality.psnr:.1f} dB; the VAE alone {quality.ceiling:.1f} dB"
