"""Words of a command line: options whose values can never be taken for another option."""

from __future__ import annotations

import shlex
import unicodedata
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError
from masactrl.settings.declare import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from masactrl.settings.declare import Setting

__all__ = ["command_words", "shell_line"]

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a terminal show other words than those that are there."""


def declared_options(request: Any) -> list[tuple[str, str]]:
    """Return what a request asks for as options, but for its truth values, as pairs.

    Left out is what is the usual anyway, and what the command line has no word for.
    """
    options = []
    for name, declared in settings_of(type(request)).items():
        value, setting = getattr(request, name), declared.setting
        usual = value == declared.default and not setting.always
        if not declared.flag or setting.argument or value is None or usual or declared.kind is bool:
            continue
        options += [(declared.flag.replace("-", "_"), text) for text in _texts(value, setting)]
    return options


def declared_flags(request: Any) -> list[str]:
    """Return the truth values of a request that are not the usual, as words."""
    words = []
    for name, declared in settings_of(type(request)).items():
        value = getattr(request, name)
        if declared.kind is bool and declared.flag and value is not None:
            yes, _, no = (declared.setting.switch or declared.flag).partition("/")
            words += [] if value == declared.default else [f"--{yes if value else no}"]
    return words


def _texts(value: Any, setting: Setting) -> tuple[str, ...]:
    """A value as the words that the option is given, one for each time."""
    if setting.write is not None:
        return setting.write(value)
    if isinstance(value, tuple):
        return tuple(str(one) for one in value)
    return (repr(value) if isinstance(value, float) else str(value),)


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
