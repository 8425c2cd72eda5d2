"""What a run gives back: pictures, how they were made, and their way to the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masactrl.errors import OutputError
from masactrl.pictures.files import write_text, written_whole
from masactrl.pictures.images import Tile, contact_sheet, png_bytes
from masactrl.runs.layout import stated_files
from masactrl.runs.recipe import PARAMETERS_KEY, ModelStated, Recipe, parameters_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from masactrl.runs.request import ResolvedRequest

HEADERS = ("source", "same noise, no control", "MasaCtrl")
"""What the three columns of a sheet show."""

TITLES = {
    "masactrl": "MasaCtrl",
    "fixed-seed": "fixed seed",
    "sdedit": "SDEdit",
    "prompt-to-prompt": "Prompt-to-Prompt",
    "plug-and-play": "Plug-and-Play",
    "style-aligned": "StyleAligned",
    "unified": "InfEdit's unified control",
    "blended-latent": "Blended Latent Diffusion",
    "imagic": "Imagic",
    "flowedit": "FlowEdit",
    "consistedit": "ConsistEdit",
    "rf-edit": "RF-Edit",
}
"""How the methods are called in pictures and tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """What became of one target prompt.

    Attributes:
        prompt: the target prompt.
        uncontrolled: the picture of the prompt from the source's noise, without control.
        controlled: the same with control.
    """

    prompt: str
    uncontrolled: Image.Image
    controlled: Image.Image


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """The pictures of one run.

    Attributes:
        source: the picture of the source prompt.
        targets: one per target prompt, in order.
        request: what was run, nothing left open.
        seconds: that the run took, without loading the model.
        model: the model's name.
        device: kind of device it ran on, for example "cpu".
        dtype: precision it ran in, for example "float32".
        warnings: sentences about what was probably not meant, see `masactrl.runs.prompts`.
        stated: what recipes say of the model; None says its name only.
        control: the kind of control, where it was an object that no request can describe; such a
            run cannot be made again from its recipe, and the recipe says so.
        noise_given: whether the start noise was given instead of drawn from the seed; likewise.
        latents: name of a picture -> its final latents (c, h / 8, w / 8), float32 on the CPU.
    """

    source: Image.Image
    targets: tuple[TargetResult, ...]
    request: ResolvedRequest
    seconds: float
    model: str
    device: str
    dtype: str
    warnings: tuple[str, ...] = ()
    stated: ModelStated | None = None
    control: str | None = None
    noise_given: bool = False
    latents: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def to_sheet(self) -> Image.Image:
        """Return one picture: per target a row of source, without control, with control."""
        title = TITLES.get(self.request.method, self.request.method)
        return contact_sheet(self.sheet_rows(), headers=(*HEADERS[:2], title))

    def sheet_rows(self) -> tuple[tuple[Tile, Tile, Tile], ...]:
        """Return the rows of `to_sheet`, for a sheet of several results."""
        return tuple(
            (
                Tile(image=self.source, caption=self.request.source_prompt),
                Tile(image=target.uncontrolled, caption=target.prompt),
                Tile(image=target.controlled, caption=target.prompt),
            )
            for target in self.targets
        )

    def pictures(self) -> dict[str, Image.Image]:
        """Return every single picture under the name that `save` gives it."""
        pictures = [self.source]
        for target in self.targets:
            pictures += [target.uncontrolled, target.controlled]
        return dict(zip(picture_names(len(self.targets)), pictures, strict=True))

    def prompts(self) -> dict[str, str]:
        """Return the prompt of every single picture, under the names of `pictures`."""
        prompts = [self.request.source_prompt]
        for target in self.targets:
            prompts += [target.prompt, target.prompt]
        return dict(zip(picture_names(len(self.targets)), prompts, strict=True))

    def recipe(self, picture: str) -> Recipe:
        """Return how the picture of that name was made."""
        objects = {"control": self.control, "noise": "given" if self.noise_given else None}
        return Recipe(
            kind="generate",
            picture=picture,
            model=self.stated or ModelStated(name=self.model),
            device=self.device,
            dtype=self.dtype,
            request=self.request.recipe() | {name: one for name, one in objects.items() if one},
            inputs=stated_files(self.request.layouts),
        )

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


SHEET = "sheet"
"""The name of the picture that shows all others."""


def write_pictures(
    folder: Path,
    pictures: Mapping[str, Image.Image],
    recipe: Recipe | None,
    *,
    prompts: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write the pictures of a run, each with its recipe inside, and the recipe beside the sheet.

    Args:
        folder: see `prepare_folder`.
        pictures: name without ending -> picture.
        recipe: of any of them; the sidecar is written for the picture that it names. None writes
            nothing but pixels.
        prompts: name -> what the picture shows, for those that show one prompt.

    Returns:
        the paths of the pictures, in order.

    Raises:
        OutputError: they cannot be written.
    """
    for name, picture in pictures.items():
        content = encoded(name, picture, recipe, prompts)
        with written_whole(folder / f"{name}.png") as beside:
            beside.write_bytes(content)
    if recipe is not None:
        path = folder / f"{recipe.picture}.json"
        write_text(path, json.dumps(recipe.to_json(), indent=2) + "\n")
    return tuple(folder / f"{name}.png" for name in pictures)


def encoded(
    name: str,
    picture: Image.Image,
    recipe: Recipe | None,
    prompts: Mapping[str, str] | None = None,
) -> bytes:
    """Return a picture of a run as a PNG; arguments are those of `write_pictures`."""
    if recipe is None:
        return png_bytes(picture)
    own, text = recipe.of(name), {}
    if prompts is not None and name in prompts:
        text[PARAMETERS_KEY] = parameters_text(own, prompts[name])
    return png_bytes(picture, own.to_json(), text=text)


def picture_names(targets: int) -> tuple[str, ...]:
    """Return the names of the single pictures of a run, source first."""
    names = ["source"]
    for number in range(1, targets + 1):
        names += [f"target{number}-uncontrolled", f"target{number}-controlled"]
    return tuple(names)


def prepare_folder(folder: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Make sure, before minutes are spent, that the pictures can be written.

    Args:
        folder: made if it does not exist, with its parents.
        names: of the pictures to come, without ending.
        overwrite: whether files of these names may be replaced.

    Raises:
        OutputError: the folder cannot be made or written to, or a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".masactrl-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written to: {error.strerror or error}; choose another folder."
        ) from error
    files = [f"{name}.{ending}" for name in names for ending in ("png", "json", "svg")]
    present = [name for name in files if (folder / name).exists()]
    if present and not overwrite:
        raise OutputError(
            f"{folder} holds {', '.join(present)} already; choose another folder or allow "
            "overwriting."
        )
