"""A mask painted over a picture: what the editor shows, and the file of what was painted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masactrl.errors import ConfigError
from masactrl.pictures.images import save_png
from masactrl.pictures.input import read_mask, read_picture
from masactrl.pictures.overlays import enlarged, mask_over

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PAINTED", "backdrop", "painted_mask", "subject_over"]

PAINTED = "painted-mask.png"
"""Name of the file that a painted mask gets."""

_PAINTABLE = 512  # pixels that the longer side of a picture to paint on has at least


def backdrop(path: str | None) -> dict[str, Any] | None:
    """Return what the editor shows for a picture: itself, enlarged where it is small."""
    if not path:
        return None
    picture = enlarged(read_picture(Path(path)), least=_PAINTABLE)
    return {"background": picture, "layers": [], "composite": None}


def painted_mask(value: Mapping[str, Any] | None) -> Path | None:
    """Return a file, white where something was painted; None where nothing was.

    Args:
        value: of the editor: the paths of its layers, whose paint is what is not transparent.

    Raises:
        ConfigError: a layer cannot be read.
    """
    from PIL import Image

    painted: np.ndarray | None = None
    paths = [Path(one) for one in (value or {}).get("layers") or () if one]
    for path in paths:
        try:
            with Image.open(path) as layer:
                alpha = np.asarray(layer.convert("RGBA"))[:, :, 3] > 127
        except OSError as error:
            raise ConfigError(f"The painted mask cannot be read: {error}.") from error
        if painted is not None and painted.shape != alpha.shape:
            raise ConfigError("The painted layers differ in size; clear the painting, paint again.")
        painted = alpha if painted is None else painted | alpha
    if painted is None or not painted.any():
        return None
    file = paths[0].with_name(PAINTED)
    save_png(file, Image.fromarray(painted.astype(np.uint8) * 255))
    return file


def subject_over(
    picture: str | None, mask: str | None, painted: Mapping[str, Any] | None
) -> Image.Image | None:
    """Return the picture with the mask that is given over it; None where there is nothing to show.

    Raises:
        ConfigError: picture or mask is none.
    """
    drawn = Path(mask) if mask else painted_mask(painted)
    if not picture or drawn is None:
        return None
    return mask_over(enlarged(read_picture(Path(picture))), read_mask(drawn))
