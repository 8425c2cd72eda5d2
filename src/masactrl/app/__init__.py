"""The studio: a page in the browser that builds the same requests as the command line."""

from __future__ import annotations

import importlib.util

from masactrl.errors import MissingExtra

__all__ = ["require_gradio"]


def require_gradio() -> None:
    """Say how to install what the page is made with, when it is missing.

    Raises:
        MissingExtra: gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("the studio", "app")
