"""Who controls the targets of an edit: the method that its request names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masactrl.attention import Schedule
from masactrl.errors import PromptError
from masactrl.methods import MasaCtrl, PromptToPrompt, Unified, method_named

if TYPE_CHECKING:
    from masactrl.attention import GivenMasks, WordMasks
    from masactrl.editing.request import ResolvedEdit
    from masactrl.methods import Method

__all__ = ["aligns_words", "check_words", "flat_rows", "method_of"]


def method_of(request: ResolvedEdit, masks: GivenMasks | WordMasks | None = None) -> Method:
    """Return the method that the request names, with its options.

    Args:
        request: an edit.
        masks: of the batch that the method will control; masactrl's.

    Raises:
        ConfigError: the method has no such option, or it is out of its range.
    """
    if request.method != "masactrl":
        return method_named(request.method, **dict(request.method_options))
    return MasaCtrl(
        schedule=Schedule(start_step=request.start_step, start_layer=request.start_layer),
        form=request.form,
        strength=request.strength,
        masks=masks,
    )


def aligns_words(method: Method) -> bool:
    """Whether a method needs the words of the source beside those of the target."""
    if isinstance(method, PromptToPrompt):
        return method.cross > 0 or method.blend is not None
    return isinstance(method, Unified) and method.cross > 0


def check_words(method: Method, source_prompt: str) -> None:
    """Refuse a method that aligns words when the source has none; `PromptError`."""
    if aligns_words(method) and not source_prompt.strip():
        raise PromptError(
            f"{method.name} takes the source's attention to its words, and the picture was "
            "inverted without a prompt; say what it shows (--from, or prompt=... of the "
            "inversion)."
        )


def flat_rows(request: ResolvedEdit) -> bool:
    """Whether a source whose branches are the same may take one row of the batch.

    Other methods look at branches, and masks by words are read from the branch of the prompts.
    """
    words = request.masks is not None and request.masks.by_words
    return request.method in ("masactrl", "fixed-seed") and not words
