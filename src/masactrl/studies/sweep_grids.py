"""Sweeps over other settings than S and L: a grid of S and L for each of their values.

axes = parse_axes(["start-step=1,2", "cfg=2,4"])
for values in axes.runs():                       # {"cfg": 2.0}, {"cfg": 4.0}
sweep_generate(model, with_values(request, values), axes.grid)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from masactrl.errors import ConfigError
from masactrl.pictures.figures import Figure
from masactrl.settings.declare import settings_of
from masactrl.studies.axes import other_axes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from masactrl.studies.axes import Axes
    from masactrl.studies.sweep_result import SweepResult

__all__ = ["check_others", "grid_name", "grids_figure", "with_values"]

Request = TypeVar("Request")


def check_others(axes: Axes, *requests: type) -> None:
    """Refuse axes that the requests of a run have no setting for; `ConfigError`."""
    known = other_axes(*requests)
    for name, _ in axes.others:
        if name not in known:
            raise ConfigError(
                f"{name} is no setting of this kind of source; accepted beside start-step and "
                f"start-layer are {', '.join(sorted(known))}."
            )


def with_values(request: Request, values: Mapping[str, Any]) -> Request:
    """Return a request with the values of those flags that it has.

    Raises:
        ConfigError: a value is out of its range.
    """
    names = {one.flag: name for name, one in settings_of(type(request)).items() if one.flag}
    chosen = {names[flag]: value for flag, value in values.items() if flag in names}
    return replace(request, **chosen)  # type: ignore[type-var]


def grid_name(values: Mapping[str, Any]) -> str:
    """Return the name of a grid's folder, such as "cfg-7.5_seed-2"; empty of no values."""
    return "_".join(f"{name}-{_word(value)}" for name, value in values.items())


def grids_figure(grids: Sequence[tuple[Mapping[str, Any], SweepResult]]) -> Figure:
    """Return the figures of all grids one below the other, their values said at the source."""
    rows = []
    for values, result in grids:
        said = ", ".join(f"{name}={_word(value)}" for name, value in values.items())
        (first, *more), *others = result.to_figure().rows
        rows += [(replace(first, caption=f"{said}: {first.caption}"), *more), *others]
    return Figure(rows=tuple(rows))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
