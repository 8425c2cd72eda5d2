"""One run at a time in a folder: who comes second waits, or is told who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from masactrl.errors import ConfigError
from masactrl.pictures.files import write_text

__all__ = ["held"]


@contextlib.contextmanager
def held(
    lock: Path, folder: Path, *, rows: str = "all", wait: bool | None = None, note: bool = True
) -> Iterator[None]:
    """Hold a lock inside the `with` block.

    Args:
        lock: file of the lock; beside it stands who has it.
        folder: what is held, for the sentence.
        rows: the part of it.
        wait: whether to wait for another run that holds it; None says of no option to wait.
        note: whether to write down who has it.

    Raises:
        ConfigError: another run holds it; says which.
        OSError: the file cannot be made.
    """
    holder = lock.with_suffix(".json")
    file = FileLock(lock, timeout=-1 if wait else 0)
    try:
        file.acquire()
    except Timeout as error:
        how = "" if wait is None else " (--wait, wait=True)"
        raise ConfigError(
            f"{folder} is in the hands of {_told(holder)}; wait for it{how}, or choose another "
            "folder."
        ) from error
    try:
        if note:
            said = {"host": socket.gethostname(), "process": os.getpid(), "rows": rows}
            write_text(holder, json.dumps(said))
        yield
    finally:
        if note:
            with contextlib.suppress(OSError):
                holder.unlink(missing_ok=True)
        file.release()


def _told(holder: Path) -> str:
    try:
        said = json.loads(holder.read_text(encoding="utf-8"))
        rows = "" if said["rows"] == "all" else f" (shard {said['rows'].replace('of', '/')})"
        return f"process {said['process']} on {said['host']}{rows}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "another run"
