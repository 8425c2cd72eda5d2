"""The command `masactrl`: its verbs, and what its exit says.

Exit codes: 0 done, 1 failed, 2 asked for what cannot be, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from masactrl._version import __version__
from masactrl.cli import (
    animate,
    attention,
    batch,
    bench,
    compare,
    demo,
    doctor,
    edit,
    export,
    generate,
    info,
    layout,
    puppets,
    rerun,
    sweep,
)
from masactrl.cli import app as studio
from masactrl.cli.console import said, warnings_said
from masactrl.cli.threads import wait_asleep
from masactrl.errors import ConfigError, MasaCtrlError, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACEBACK_VARIABLE = "MASACTRL_TRACEBACK"
"""Environment variable; when it is set, an unforeseen error shows where it happened."""

NAME = "masactrl"
DONE, FAILED, USAGE = 0, 1, 2

app = typer.Typer(
    name=NAME,
    help="Pictures of the same subject doing something else: MasaCtrl's mutual self-attention "
    "for diffusion models, without training.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which people meet them, which is that of --help.
app.command("demo")(demo.demo)
app.command("generate")(generate.generate)
app.command("animate")(animate.animate)
app.command("edit")(edit.edit)
app.command("batch")(batch.batch)
app.command("sweep")(sweep.sweep)
app.command("compare")(compare.compare)
app.command("layout")(layout.layout)
app.command("attention")(attention.attention)
app.command("info")(info.info)
app.command("rerun")(rerun.rerun)
app.command("export")(export.export)
app.command("app")(studio.app)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(puppets.app, name="puppets")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Hold the options that belong to no verb."""


@cache
def _command() -> Any:
    """Return the command itself.

    Not the Typer object, which would replace this process's way of showing errors.
    """
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after the command's name; None takes those of this process.
    """
    wait_asleep()
    errors = Console(stderr=True)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with warnings_said(errors):
            code = _command().main(words or ["--help"], prog_name=NAME, standalone_mode=False)
    except TyperException as error:  # what the words on the command line cannot mean
        sentence = error.format_message().strip().rstrip(".")
        if sentence:  # there is none where the help was shown instead
            said(errors, "Error", f"{sentence}. See {NAME} --help.")
        return error.exit_code
    except ConfigError as error:
        said(errors, "Error", str(error))
        return USAGE
    except MasaCtrlError as error:
        said(errors, "Error", str(error))
        return FAILED
    except Exception as error:  # nobody above could say it in a sentence
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        said(errors, "Error", _unforeseen(error))
        return FAILED
    # Typer answers an interrupt and an early exit with their code, a finished command with None.
    return code if isinstance(code, int) else DONE


def _unforeseen(error: Exception) -> str:
    """Return a sentence about an error that this package did not raise."""
    kind = type(error).__name__
    if out_of_memory(error):
        return (
            "The device has no memory left for this; lower --size, give a smaller picture or ask "
            "for fewer targets at once, or use --dtype float16 or --offload model on a GPU."
        )
    reason = str(error).strip().partition("\n")[0] or "no reason given"
    return (
        f"Unforeseen {kind}: {reason} (probably a mistake in masactrl; set "
        f"{TRACEBACK_VARIABLE}=1 to see where it happens.)"
    )
