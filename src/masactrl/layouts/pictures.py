"""A layout's picture as the tensor that its network reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from PIL import Image
from torch.nn import functional

from masactrl.errors import ConfigError
from masactrl.pictures.images import image_to_tensor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["layout_tensor"]

_ALIKE: Final = 0.02  # by which the proportions of picture and run may differ


def layout_tensor(
    picture: Image.Image,
    network: Any,
    size: tuple[int, int],
    kind: str,
    padded: tuple[int, int] | None = None,
) -> Tensor:
    """Return a picture (channels, height, width) in [0, 1], channels as the network reads them.

    Args:
        picture: RGB or grey, of any size of the run's proportions.
        network: a ControlNet or T2I-Adapter.
        size: height and width of the run.
        kind: of the layout, for what is said.
        padded: height and width that the model sees, where lower and right edges are repeated.

    Raises:
        ConfigError: the proportions differ.
    """
    height, width = size
    was, wanted = picture.width / picture.height, width / height
    if abs(was / wanted - 1) > _ALIKE:
        raise ConfigError(
            f"The layout {kind} is {picture.width}x{picture.height} and the run {width}x{height}; "
            "give a picture of the run's proportions."
        )
    grey = channels_of(network) == 1
    fitted = picture.convert("L" if grey else "RGB")
    if fitted.size != (width, height):
        fitted = fitted.resize((width, height), Image.Resampling.BILINEAR)
    shown = image_to_tensor(fitted.convert("RGB"), signed=False)
    shown = shown[:1] if grey else shown
    if padded is None or padded == size:
        return shown
    more = (0, padded[1] - width, 0, padded[0] - height)
    return functional.pad(shown[None], more, mode="replicate")[0]


def channels_of(network: Any) -> int:
    """How many channels a network's picture has."""
    config = network.config
    return int(getattr(config, "conditioning_channels", None) or config.in_channels)
