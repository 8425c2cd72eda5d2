"""The settings of requests as a table for people, made from their declarations."""

from __future__ import annotations

from dataclasses import MISSING
from typing import get_origin

from masactrl.settings.declare import Declared, settings_of

__all__ = ["settings_table"]


def settings_table(owner: type) -> str:
    """Return a Markdown table: the name in Python, the flag, what is accepted, default, help."""
    rows = [("in Python", "on the command line", "accepted", "default", "what it is")]
    for declared in settings_of(owner).values():
        rows.append(
            (
                f"`{declared.name}`",
                _word(declared),
                _accepted(declared),
                _default(declared),
                declared.setting.help,
            )
        )
    head, *body = [" | ".join(row) for row in rows]
    return "\n".join([f"| {head} |", "|" + "---|" * len(rows[0]), *(f"| {one} |" for one in body)])


def _word(declared: Declared) -> str:
    setting = declared.setting
    if not declared.flag:
        return ""
    if setting.argument:
        return f"`{setting.metavar}`"
    words = (setting.switch or declared.flag).split("/")
    return ", ".join(f"`--{word}`" for word in words)


def _accepted(declared: Declared) -> str:
    if declared.choices:
        return ", ".join(declared.choices)
    if declared.setting.bounded:
        return declared.setting.span()
    if get_origin(declared.kind) is tuple:
        return "several texts"
    named = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text"}
    return named.get(declared.kind, "options by name")


def _default(declared: Declared) -> str:
    if declared.setting.usual:
        return declared.setting.usual
    if declared.default is MISSING:
        return "must be given"
    named = {True: "yes", False: "no"}
    value = declared.default
    return named[value] if isinstance(value, bool) else (f"{value}" if value != "" else "nothing")
