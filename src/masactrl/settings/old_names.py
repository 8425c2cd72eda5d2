"""Modules and fields that moved answer to their old names for one release, with a warning.

from masactrl.images import save_png      # DeprecationWarning: now masactrl.pictures.images
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, Final, TypeVar

__all__ = ["MOVED", "answer_to_old_names", "formerly", "present_names"]

#: Old name -> new name, both below `masactrl`.
MOVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ablation": "studies.ablation",
        "attention_view": "studies.attention",
        "auto": "studies.auto",
        "compare": "studies.compare",
        "edit": "runs.invert",
        "figures": "pictures.figures",
        "files": "pictures.files",
        "generate": "runs.generate",
        "images": "pictures.images",
        "overlays": "pictures.overlays",
        "picture_input": "pictures.input",
        "prompts": "runs.prompts",
        "recipe": "runs.recipe",
        "request": "runs.request",
        "result": "runs.result",
        "scoring": "studies.scoring",
        "sweep": "studies.sweep",
        "sweep_result": "studies.sweep_result",
        "models.places": "models.locate",
        "attention.sites": "attention.layers",
        "attention.clock": "attention.steps",
        "attention.cache": "attention.features",
        "attention.taps": "attention.control_hooks",
        "attention.watch": "attention.capture",
        "puppets.measure": "bench.model_measure",
        "studies.compare_edited": "studies.compare",
        "layouts.edges": "pictures.edges",
        "pictures.mask_input": "settings.mask_input",
    }
)
_ROOT: Final = "masactrl"
Owner = TypeVar("Owner")


def formerly(**names: str) -> Callable[[type[Owner]], type[Owner]]:
    """Let a dataclass answer to a field's name of before: ``source_prompt="prompt"``."""
    present = {old: new for new, old in names.items()}

    def dress(owner: Any) -> Any:
        make = owner.__init__

        def warn(old: str) -> None:
            warnings.warn(
                f"{owner.__name__}.{old} is now {present[old]}; the old name goes with the next "
                "release.",
                DeprecationWarning,
                stacklevel=3,
            )

        @wraps(make)
        def init(self: Any, **values: Any) -> None:
            for old in present.keys() & values.keys():
                warn(old)
            make(self, **present_names(owner, values))

        def shown(old: str) -> property:
            def read(self: Any) -> Any:
                warn(old)
                return getattr(self, present[old])

            return property(read)

        owner.__init__, owner.__former_names__ = init, present
        for old in present:
            setattr(owner, old, shown(old))
        return owner

    return dress


def present_names(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the names that the fields of a dataclass have now, unsaid."""
    present = getattr(owner, "__former_names__", {})
    now = {name: value for name, value in values.items() if name not in present}
    return now | {present[name]: value for name, value in values.items() if name in present}


class _Both(ModuleType):
    """A module that is also the function of its name: importing it must not hide the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]](*args, **kwargs)


class _Moved(Loader):
    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Both(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name into its place."""
        warnings.warn(
            f"{module.__name__} is now {self._new}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        found = import_module(self._new)
        if module.__name__.rpartition(".")[2] in vars(found):
            module.__dict__.update({k: v for k, v in vars(found).items() if k != "__name__"})
        else:
            sys.modules[module.__name__] = found


class _OldNames(MetaPathFinder):
    """Asked last, when no module of the name is there."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The new module's spec where ``fullname`` is an old name, else None."""
        root, _, name = fullname.partition(".")
        if root != _ROOT or name not in MOVED:
            return None
        return ModuleSpec(fullname, _Moved(f"{_ROOT}.{MOVED[name]}"))


def answer_to_old_names() -> None:
    """Let imports of old names succeed from now on."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
