"""A SOURCE of the command line and what is asked of it: a prompt, or a picture that is inverted.

Which settings belong to which kind of source is what the requests declare: one that was given and
that the source at hand has no use for is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from masactrl.cli.parsing import parse_photo, parse_size
from masactrl.errors import ConfigError
from masactrl.runs.asked import Asked
from masactrl.runs.edit_request import EditRequest, split_seed
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.request import GenerateRequest
from masactrl.settings.declare import settings_of

if TYPE_CHECKING:
    from masactrl.cli.declared import Given

__all__ = ["asked_of"]


def asked_of(
    given: Given,
    source: str | Path,
    *,
    size: str | None = None,
    inversion: dict[str, Any] | None = None,
    **own: Any,
) -> Asked:
    """Read what was given for a source.

    Args:
        given: the options of the command.
        source: a prompt, or the file of a picture (any `Path`).
        size: written WIDTHxHEIGHT; of a prompt alone.
        inversion: fields of the inversion that go before what was given.
        own: fields of the request that go before what was given.

    Raises:
        ConfigError: something was given that belongs to the other kind of source, or a value is out
            of its range.
        ImageError: the picture cannot be read.
    """
    picture = source if isinstance(source, Path) else parse_photo(source)
    if picture is None:
        _refuse_of_pictures(given)
        if size is not None:
            own["width"], own["height"] = parse_size(size)
        return Asked(request=given.build(GenerateRequest, source_prompt=source, **own))
    if size is not None:
        raise ConfigError("--size belongs to a prompt, and a picture was given; it has its own.")
    ways, asked = given.values(InversionRequest), given.values(EditRequest)
    seeds = split_seed(
        ways.get("seed"),
        method=own.get("method", "masactrl"),
        inversion=ways.get("method", "direct"),
        fresh_steps=ways.get("fresh_steps"),
        fresh_noise=asked.get("fresh_noise"),
    )
    inverted = given.build(InversionRequest, **{"seed": seeds[0], **(inversion or {})})
    request = given.build(EditRequest, **{"seed": seeds[1], **own})
    from masactrl.pictures.input import read_picture

    read_picture(picture)  # so that a file that cannot be read is said before a model is loaded
    return Asked(request=request, picture=picture, inversion=inverted)


def _refuse_of_pictures(given: Given) -> None:
    """Refuse settings that only an inversion, or the edit of a picture, has."""
    shared = {one.flag for one in settings_of(GenerateRequest).values()}
    for owner in (InversionRequest, EditRequest):
        for declared in settings_of(owner).values():
            if declared.flag and declared.flag not in shared and given.changed(declared):
                raise ConfigError(
                    f"--{declared.flag} belongs to a picture that is inverted, and the source is "
                    "a prompt; leave it out, or give the file of a picture."
                )
