"""What a run gives back: pictures, how they were made, and their way to the disk."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from masactrl._version import __version__
from masactrl.errors import OutputError
from masactrl.images import Tile, contact_sheet, save_png

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from PIL import Image

    from masactrl.request import ResolvedRequest

HEADERS = ("source", "same noise, no control", "MasaCtrl")
"""What the three columns of a sheet show."""

_RECIPE_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """What became of one target prompt.

    Attributes:
        prompt: the target prompt.
        uncontrolled: the picture of the prompt from the source's noise, without control.
        controlled: the same with mutual self-attention.
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
        warnings: sentences about what was probably not meant, see `masactrl.prompts`.
    """

    source: Image.Image
    targets: tuple[TargetResult, ...]
    request: ResolvedRequest
    seconds: float
    model: str
    device: str
    dtype: str
    warnings: tuple[str, ...] = ()

    def to_sheet(self) -> Image.Image:
        """Return one picture: per target a row of source, without control, with control."""
        return contact_sheet(self.sheet_rows(), headers=HEADERS)

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

    def recipe(self, picture: str) -> dict[str, Any]:
        """Return how the picture of that name was made, as values that JSON knows."""
        return {
            "schema": _RECIPE_SCHEMA,
            "masactrl": __version__,
            "command": "generate",
            "picture": picture,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "request": asdict(self.request),
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        }

    def save(self, folder: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write every picture and the sheet as PNG with its recipe inside; return the paths.

        Args:
            folder: where to; made if it does not exist.
            overwrite: whether files of these names may be replaced.

        Raises:
            OutputError: it cannot be written, or would replace a file.
        """
        pictures = {**self.pictures(), SHEET: self.to_sheet()}
        prepare_folder(folder, pictures, overwrite=overwrite)
        for name, picture in pictures.items():
            save_png(folder / f"{name}.png", picture, self.recipe(name))
        return tuple(folder / f"{name}.png" for name in pictures)

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        buffer = io.BytesIO()
        self.to_sheet().save(buffer, format="PNG")
        return buffer.getvalue()


SHEET = "sheet"
"""The name of the picture that shows all others."""


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
    present = [f"{name}.png" for name in names if (folder / f"{name}.png").exists()]
    if present and not overwrite:
        raise OutputError(
            f"{folder} holds {', '.join(present)} already; choose another folder or allow "
            "overwriting."
        )
