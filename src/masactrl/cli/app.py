"""`masactrl app`: the studio in the browser."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer
from rich.console import Console

from masactrl.cli.console import quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.errors import ConfigError, MasaCtrlError
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import ModelSpec

LOCAL = "127.0.0.1"


@takes(ModelSpec, only(LayoutWords, "layout_model"))
def app(
    given: Given,
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Of the page, 1 to 65535; 0 takes a free one."
        ),
    ] = 7860,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at; 127.0.0.1 is this machine only. Another one lets everyone "
            "on the network use the page."
        ),
    ] = LOCAL,
    share: Annotated[
        bool,
        typer.Option(
            "--share", help="Ask Gradio for a public address of the page, which works for a week."
        ),
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    r"""Open the studio: the same runs as on the command line, in a page of the browser.

    Ends with Ctrl-C. Needs the extra app: pip install 'masactrl\[app]'.

    Example: masactrl app --model puppets --port 7860
    """
    with quiet_libraries():
        from masactrl.app import require_gradio

        require_gradio()
        port = free_port(host) if port == 0 else port
        _check_port(host, port)
        from masactrl.app.page import build, serve
        from masactrl.app.studio import Studio

        spec = given.build(ModelSpec)
        networks = given.build(LayoutWords).networks()
        studio = Studio(model=spec.load(), words=spec.model, loras=spec.loras, networks=networks)
        # Gradio's copies of what visitors see; with the studio's own folder they are gone.
        os.environ.setdefault("GRADIO_TEMP_DIR", str(studio.cache))
        errors = Console(stderr=True)
        errors.print(f"The studio is at http://{host}:{port} (Ctrl-C ends it).", highlight=False)
        try:
            serve(build(studio), host=host, port=port, share=share, browser=browser)
        finally:
            studio.close()  # nobody's pictures outlive it


def free_port(host: str) -> int:
    """Return a port of that address that nobody uses now."""
    with socket.socket() as probe:
        _bind(probe, host, 0)
        port: int = probe.getsockname()[1]
        return port


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(probe, host, port)


def _bind(probe: socket.socket, host: str, port: int) -> None:
    try:
        probe.bind((host, port))
    except socket.gaierror as error:
        raise ConfigError(f"{host!r} is no address of this machine.") from error
    except OSError as error:
        raise MasaCtrlError(
            f"Port {port} of {host} cannot be used ({error.strerror or error}); choose another "
            "with --port, or --port 0 for any free one."
        ) from error
