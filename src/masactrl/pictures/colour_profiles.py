"""Colour management: what is read becomes sRGB, and what is written is sRGB without a profile.

Phones write Display P3, cameras Adobe RGB, printers' files CMYK with a profile of their own. Their
numbers mean other colours than the same numbers in sRGB, which is what networks were trained on.
"""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import Any, Final

from PIL import Image, ImageCms

from masactrl.errors import ControlWarning

__all__ = ["in_srgb"]

_SRGB_GAMMA: Final = 1 / 2.2
_SPACES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def in_srgb(picture: Image.Image) -> Image.Image:
    """Return a picture of 8 bits whose colours are sRGB's: mode RGB or L, with alpha RGBA or LA.

    An embedded ICC profile is applied and dropped; a PNG's gamma counts where there is no profile.
    A picture with neither, or with an sRGB profile, keeps every level.

    Warns:
        ControlWarning: the profile cannot be used; the numbers are taken for sRGB's.
    """
    profile = picture.info.get("icc_profile")
    gamma = None if profile or "srgb" in picture.info else picture.info.get("gamma")
    plain, alpha = _split(picture)
    if profile:
        plain = _converted(plain, profile)
    elif isinstance(gamma, float) and gamma > 0 and abs(gamma / _SRGB_GAMMA - 1) > 0.05:
        table = [round(255 * (level / 255) ** (_SRGB_GAMMA / gamma)) for level in range(256)]
        plain = plain.point(table * len(plain.getbands()))
    for key in ("icc_profile", "gamma", "chromaticity"):
        plain.info.pop(key, None)
    if alpha is not None:
        plain.putalpha(alpha)
    return plain


def _split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A copy in mode RGB, L or CMYK, and the alpha channel where there is transparency."""
    alpha = None
    if picture.has_transparency_data:
        layered = picture.convert("LA" if picture.mode in ("L", "LA", "La") else "RGBA")
        alpha = layered.getchannel("A")
        picture = layered.convert("L" if layered.mode == "LA" else "RGB")
    if picture.mode in ("L", "RGB", "CMYK"):
        return picture.copy(), alpha
    return picture.convert("L" if picture.mode == "1" else "RGB"), alpha


def _converted(picture: Image.Image, profile: bytes) -> Image.Image:
    try:
        found: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = str(found.profile.xcolor_space).strip()
        if str(found.profile.profile_description or "").strip().startswith("sRGB"):
            return picture
        mode = _SPACES.get(space)
        if mode is None or (mode == "CMYK") != (picture.mode == "CMYK"):
            raise ImageCms.PyCMSError(f"it is one of {space} in a picture of {picture.mode}")
        made = ImageCms.profileToProfile(picture.convert(mode), found, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warnings.warn(
            f"The colour profile in the picture cannot be used ({error}); its numbers are taken "
            "for those of sRGB. Convert the picture to sRGB first if colours look wrong.",
            ControlWarning,
            stacklevel=2,
        )
        return picture
    return picture if made is None else made


@cache
def _srgb() -> Any:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
