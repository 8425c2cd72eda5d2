"""Words of a command line: options whose values can never be taken for another option."""

from __future__ import annotations

import shlex
import unicodedata
from typing import TYPE_CHECKING

from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["command_words", "shell_line"]

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a terminal show other words than those that are there."""


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


def shell_line(words: Sequence[str]) -> str:
    """Return words quoted for a POSIX shell, which reads back exactly these; line breaks, too.

    Raises:
        ConfigError: a word has characters that steer a terminal, or none that can be printed: such
            a line cannot be shown, or would show something else than it does.
    """
    for word in words:
        for letter in word:
            kind = unicodedata.category(letter)
            if (kind in ("Cc", "Cs") and letter not in "\n\t") or letter in _TURNS:
                raise ConfigError(
                    f"The words {word!r} hold a character ({letter!r}) that no command line can "
                    "show as it is; `masactrl rerun` makes the picture again."
                )
    return shlex.join(words)
