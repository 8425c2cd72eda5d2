"""Words of a command line: options whose values can never be taken for another option."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["command_words"]


def command_words(verb: str, argument: str, options: Iterable[tuple[str, str]]) -> list[str]:
    """Return verb, argument and options as words; the argument is the last where it has to be.

    Args:
        verb: of the command.
        argument: its one argument.
        options: name without dashes, underscores allowed -> value.
    """
    words: list[str] = []
    for name, text in options:
        flag = f"--{name.replace('_', '-')}"
        # A value that looks like an option has to be tied to its own.
        words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return [verb, *words, "--", argument] if argument.startswith("-") else [verb, argument, *words]
