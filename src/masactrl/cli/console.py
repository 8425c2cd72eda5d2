"""What all verbs share of the terminal: sentences, progress, and quiet libraries.

Pictures' paths and figures go to standard output, everything else to standard error.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from masactrl.errors import ControlWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from masactrl.runs.generate import StepRecord

INTERRUPTED = 130
"""Exit code of a command that was stopped by Ctrl-C, whether it kept something or not."""

_PAGE = 120  # letters a line in a file or pipe
_STYLES = {"Error": "bold red", "Warning": "bold yellow"}


def output() -> Console:
    """Return the console of standard output; as wide as a table likes where there is no screen."""
    console = Console()
    return console if console.is_terminal else Console(width=_PAGE)


def said(console: Console, kind: str, sentence: str) -> None:
    """Print one sentence on one line, "Error" or "Warning" before it."""
    line = Text.assemble((f"{kind}: ", _STYLES.get(kind, "bold")), sentence)
    console.print(line, soft_wrap=True, highlight=False)


@contextmanager
def warnings_said(console: Console) -> Iterator[None]:
    """Print this package's warnings as sentences, at once and each once in a command.

    A comparison, or several seeds, run into the same warning with every run. Those of others are
    left to Python.
    """
    usual, told = warnings.showwarning, set[str]()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, ControlWarning):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in told:
            told.add(str(message))
            said(console, "Warning", str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", ControlWarning)
        warnings.showwarning = show
        yield


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what the libraries say while they import and load; errors still come through.

    Their loading bars and notes about optional packages would hide our own sentences. Both are
    put back as they were.
    """
    # Through the libraries' own switches: they overwrite the level of their loggers on import.
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(one, one.get_verbosity(), one.is_progress_bar_enabled()) for one in libraries]
    for one in libraries:
        one.set_verbosity(logging.ERROR)
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one, verbosity, bars in before:
            one.set_verbosity(verbosity)
            if bars:
                one.enable_progress_bar()


@contextmanager
def progress(console: Console, label: str, total: int) -> Iterator[Callable[[StepRecord], None]]:
    """Show a bar with the time left, on a terminal only.

    Args:
        console: where to.
        label: what is being done.
        total: denoising steps of all runs together.

    Yields:
        the function to call after every step.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda _: bar.advance(task)


def interrupted(done: str) -> NoReturn:
    """Say on standard error what was done before Ctrl-C, and end with its exit code.

    Args:
        done: for example "2 of 5 runs are done".
    """
    Console(stderr=True).print(f"Interrupted: {done}.", highlight=False, soft_wrap=True)
    raise typer.Exit(INTERRUPTED)


@contextmanager
def finishing(console: Console) -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C wait until the picture at hand is finished; a second one stops at once.

    Args:
        console: where the first Ctrl-C is answered.

    Yields:
        a function that says whether to stop before the next picture.
    """
    asked = threading.Event()

    def note(number: int, frame: object) -> None:
        del number, frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        console.print("Finishing this picture; Ctrl-C again stops at once.", soft_wrap=True)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
