"""Words of a command line: options whose values can never be taken for another option."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["command_words"]


def command_words(
    verb: str, arguments: Sequence[str], options: Iterable[tuple[str, str]]
) -> list[str]:
    """Return verb, arguments and options as words; the arguments are last where they have to be.

    Args:
        verb: of the command.
        arguments: what has no name, in order.
        options: name without dashes, underscores allowed -> value.
    """
    words: list[str] = []
    for name, text in options:
        flag = f"--{name.replace('_', '-')}"
        # A value that looks like an option has to be tied to its own.
        words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    if any(argument.startswith("-") for argument in arguments):
        return [verb, *words, "--", *arguments]
    return [verb, *arguments, *words]
