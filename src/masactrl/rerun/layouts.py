"""Layouts as recipes tell them: read back, with the pictures and networks that are given again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from masactrl.errors import ConfigError
from masactrl.pictures.files import at_home
from masactrl.runs.layout import Layout, layout_of_files
from masactrl.runs.recipe import STRICT, checked

__all__ = ["AskedLayout", "layout_options", "layouts_drawn", "layouts_of"]

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedLayout:
    """A layout as a recipe tells it; ``files`` of the recipe's inputs are its pictures."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT

    kind: str
    scale: float
    begin: float
    end: float
    model: str | None
    files: int
    source: bool
    local: bool = False

    def network(self, networks: Mapping[str, str]) -> str | None:
        """Return what reads it; what is local is taken from ``networks`` (by kind) alone.

        Raises:
            ConfigError: it is not there, or the recipe's is no Hub id.
        """
        if self.model is None:
            return None
        if self.local:
            if self.kind not in networks:
                raise ConfigError(
                    f"The layout {self.kind} was read by {self.model!r}, a network of its maker; "
                    f"say where it is with --layout-model {self.kind}=PATH."
                )
            return networks[self.kind]
        if not _HUB_ID.fullmatch(self.model) or at_home(self.model).exists():
            raise ConfigError(f"The recipe cannot be used: {self.model!r} is no Hub id.")
        return self.model

    def drawn(self, files: Sequence[Path], networks: Mapping[str, str]) -> Layout:
        """Return it with the pictures of these files, the source's last; see `network`."""
        made = layout_of_files(self.kind, files, None)
        pictures = made.pictures[: self.files]
        own = made.pictures[self.files] if self.source else None
        return self.acting(replace(made, pictures=pictures, source=own), networks)

    def acting(self, made: Layout, networks: Mapping[str, str]) -> Layout:
        """Return a layout that is read and acts as this one; see `network`."""
        network = self.network(networks)
        return replace(made, model=network, scale=self.scale, begin=self.begin, end=self.end)


def layouts_drawn(
    values: Mapping[str, Any], files: Sequence[Path], networks: Mapping[str, str]
) -> tuple[Layout, ...]:
    """Return the layouts that a recipe tells of, with the pictures of these files."""
    left, made = list(files), []
    for asked in layouts_of(values):
        count = asked.files + asked.source
        made.append(asked.drawn(left[:count], networks))
        del left[:count]
    return tuple(made)


def layouts_of(values: Mapping[str, Any]) -> tuple[AskedLayout, ...]:
    """Return the layouts that a recipe tells of."""
    return tuple(checked(AskedLayout, one) for one in values.get("layouts", ()))


def layout_options(asked: Sequence[AskedLayout], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options of the command line that ask for these layouts, as pairs.

    Args:
        asked: what a recipe tells.
        names: of their files, in order.

    Raises:
        ConfigError: the command line has no words for it.
    """
    if not asked:
        return []
    told = {(one.scale, one.begin, one.end) for one in asked}
    if len(told) > 1 or any(one.begin or one.source for one in asked):
        raise ConfigError(
            "The layouts differ in scale or in the part of the run at which they lead, begin late, "
            "or lead the source, too, for which the command line has no word; `masactrl rerun` "
            "makes the picture again."
        )
    left, options = list(names), []
    for one in asked:
        options += [("layout", f"{one.kind}={name}") for name in left[: one.files]]
        options += [("layout_model", f"{one.kind}={one.model}")] if one.model else []
        del left[: one.files]
    ((scale, _, end),) = told
    options += [] if scale == 1 else [("layout_scale", repr(scale))]
    return options + ([] if end == 1 else [("layout_until", repr(end))])
