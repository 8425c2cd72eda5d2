"""Who controls the targets of an edit: the method that its request names, or a given one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from masactrl.attention import Positions, Window, find_layers
from masactrl.errors import ConfigError, PromptError
from masactrl.methods import MasaCtrl, PromptToPrompt, Unified, method_named
from masactrl.methods.options import from_start, options_of
from masactrl.methods.steps import window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.attention import GivenMasks, WordMasks
    from masactrl.methods import Method
    from masactrl.models import LoadedModel
    from masactrl.runs.edit_request import EditRequest, ResolvedEdit

__all__ = [
    "aligns_words",
    "as_walked",
    "check_words",
    "flat_rows",
    "method_of",
    "resolved_edit",
]


def resolved_edit(
    model: LoadedModel,
    request: EditRequest,
    timesteps: Sequence[float],
    method: Method | str | None = None,
) -> ResolvedEdit:
    """Return an edit with nothing left open.

    Args:
        model: whose preset fills what is open.
        request: the edit.
        timesteps: of the run, one a step.
        method: who controls the targets, instead of the method that the request names: a name, or
            a method itself. What requests have words for is written in words; only what they have
            none for (other windows than from S and L on, methods of somebody else's) stays an
            object, in `ResolvedEdit.control`.

    Raises:
        ConfigError: the request has settings of another method, or the object has masks.
        ScheduleError: the object's window is beyond the run or the model.
    """
    steps = len(timesteps)
    if method is None or method == request.method:
        return request.resolve(model.preset, steps)
    if isinstance(method, MasaCtrl):
        return _by_masactrl(model, request, timesteps, method)
    if isinstance(method, str):
        return replace(request, method=method, method_options=()).resolve(model.preset, steps)
    options = options_of(method)
    if options is not None:
        named = replace(request, method=method.name, method_options=options)
        return named.resolve(model.preset, steps)
    # Any other method has none of masactrl's settings; a stand-in of its kind refuses them.
    kind = "fixed-seed" if method.start is None else "sdedit"
    asked = replace(request, method=kind, method_options=()).resolve(model.preset, steps)
    return replace(asked, method=method.name, control=method)


def _by_masactrl(
    model: LoadedModel, request: EditRequest, timesteps: Sequence[float], method: MasaCtrl
) -> ResolvedEdit:
    if method.masks is not None:
        raise ConfigError(
            "Masks of an edit belong to its request (masks=EditMasks(...)), which lays them over "
            "source and targets; leave them out of MasaCtrl."
        )
    every = find_layers(model.denoiser)
    layers = method.schedule.resolve_layers(every)
    window = Window(
        steps=method.schedule.resolve_steps(timesteps),
        layers=frozenset(layer.index for layer in layers),
    )
    positions = Positions.of(method.positions)
    asked = replace(
        request,
        method="masactrl",
        method_options=(),
        layers="",
        form=method.form,
        strength=method.strength,
        positions=positions.policy,
    )
    told = method.on_untouched == "raise" and positions == Positions.of(positions.policy)
    if not window.steps or not window.layers:  # nothing is controlled, on purpose
        return replace(asked, strength=0.0).resolve(model.preset, len(timesteps))
    first = replace(asked, start_step=min(window.steps), start_layer=min(window.layers))
    settings = first.resolve(model.preset, len(timesteps))
    if told and from_start(window, len(timesteps), every) is not None:
        return settings
    return replace(settings, control=method)


def as_walked(settings: ResolvedEdit, rule: str) -> ResolvedEdit:
    """Return the edit as a source can be had that is walked by this rule.

    RF-Solver and FireFlow ask the network between steps, too, for which a recording has no
    features: their source runs with every edit.
    """
    between = rule in ("midpoint", "fireflow") and settings.method == "masactrl"
    return replace(settings, mode="joint") if between else settings


def method_of(request: ResolvedEdit, masks: GivenMasks | WordMasks | None = None) -> Method:
    """Return the method of the request, with its options.

    Args:
        request: an edit.
        masks: of the batch that the method will control; masactrl's.

    Raises:
        ConfigError: the method has no such option, or it is out of its range.
    """
    if isinstance(request.control, MasaCtrl):
        return replace(request.control, masks=masks)
    if request.control is not None:
        return request.control
    if request.method != "masactrl":
        return method_named(request.method, **dict(request.method_options))
    return MasaCtrl.of(request, masks=masks)


def aligns_words(method: Method) -> bool:
    """Whether a method needs the words of the source beside those of the target."""
    if isinstance(method, PromptToPrompt):
        return window(method.cross)[1] > 0 or method.blend is not None
    return isinstance(method, Unified) and method.cross > 0


def check_words(method: Method, source_prompt: str) -> None:
    """Refuse a method that aligns words when the source has none; `PromptError`."""
    if aligns_words(method) and not source_prompt.strip():
        raise PromptError(
            f"{method.name} takes the source's attention to its words, and the picture was "
            "inverted without a prompt; say what it shows (--from, source_prompt of the "
            "inversion)."
        )


def flat_rows(request: ResolvedEdit) -> bool:
    """Whether a source whose branches are the same may take one row of the batch.

    Other methods look at branches, and masks by words are read from the branch of the prompts.
    """
    words = request.masks is not None and request.masks.by_words
    ours = request.control is None or isinstance(request.control, MasaCtrl)
    # At steps without guidance a batch in branches has one, and a flat one cannot leave rows out.
    whole = (request.guidance_begin, request.guidance_end) == (0.0, 1.0)
    return ours and request.method in ("masactrl", "fixed-seed") and not words and whole
