"""Every method by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from masactrl.diffusion.noise import NoiseKind
from masactrl.errors import ConfigError
from masactrl.methods.blended_latent import BlendedLatent
from masactrl.methods.consistedit import ConsistEdit
from masactrl.methods.fixed_seed import FixedSeed
from masactrl.methods.flowedit import FlowEdit
from masactrl.methods.imagic import Imagic
from masactrl.methods.masactrl import MasaCtrl
from masactrl.methods.method import Method
from masactrl.methods.plug_and_play import PlugAndPlay
from masactrl.methods.prompt_to_prompt import PromptToPrompt
from masactrl.methods.rf_edit import RFEdit
from masactrl.methods.sdedit import SDEdit
from masactrl.methods.style_aligned import StyleAligned
from masactrl.methods.unified import Unified

__all__ = ["METHODS", "method_named", "methods_of"]

METHODS: Mapping[str, Callable[..., Method]] = MappingProxyType(
    {
        "masactrl": MasaCtrl,
        "fixed-seed": FixedSeed,
        "sdedit": SDEdit,
        "prompt-to-prompt": PromptToPrompt,
        "plug-and-play": PlugAndPlay,
        "style-aligned": StyleAligned,
        "unified": Unified,
        "blended-latent": BlendedLatent,
        "imagic": Imagic,
        "flowedit": FlowEdit,
        "consistedit": ConsistEdit,
        "rf-edit": RFEdit,
    }
)
"""Every method by name. All but MasaCtrl, which needs a schedule, have usable defaults."""

_ANYWHERE = ("masactrl", "fixed-seed", "sdedit")
_FLOWS = ("flowedit", "consistedit", "rf-edit")


def methods_of(kind: NoiseKind) -> tuple[str, ...]:
    """Return the names of those that edit with U-Nets ("diffusion"), or with SD3 and FLUX."""
    if kind == "flow":
        return (*_ANYWHERE, *_FLOWS)
    return tuple(name for name in METHODS if name not in _FLOWS)


def method_named(name: str, **options: Any) -> Method:
    """Return the method of that name with these fields; the others have their defaults.

    Raises:
        ConfigError: there is no such method, or it has no such field.
    """
    try:
        made: Any = METHODS[name]
    except KeyError:
        raise ConfigError(
            f"There is no method {name!r}; accepted are {', '.join(METHODS)}."
        ) from None
    accepted = [field.name for field in fields(made)]
    for option in options:
        if option not in accepted:
            has = f"accepted are {', '.join(accepted)}" if accepted else "it has none"
            raise ConfigError(f"The method {name} has no option {option!r}; {has}.")
    method: Method = made(**options)
    return method
