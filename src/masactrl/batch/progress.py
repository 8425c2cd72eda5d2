"""How far a batch is: events for programs, a line a minute for a log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masactrl.batch.rows import Row

__all__ = ["OnEvent", "Progress", "lasting"]

OnEvent = Callable[[Mapping[str, Any]], None]
"""Told what happens, as values that JSON knows; "event" is begin, row or end."""

_EVERY = 60.0  # seconds


class Progress:
    """Counts rows and tells of them; inside its `with` block the log gets a line a minute.

    Args:
        total: rows that this run makes.
        log: file of the lines; one that cannot be written is left.
        on_event: see `OnEvent`.
    """

    def __init__(self, total: int, log: Path, on_event: OnEvent | None) -> None:
        self.total, self.made, self.failed = total, 0, 0
        self._log, self._on_event = log, on_event
        # Not the clock on the wall, which may be set back.
        self._began = time.monotonic()
        self._over = threading.Event()
        self._minutes = threading.Thread(target=self._say_minutes, daemon=True)
        self._say(f"{total} rows to make")
        self._tell(event="begin", rows=total)

    def __enter__(self) -> Progress:
        self._minutes.start()
        return self

    def __exit__(self, *error: object) -> None:
        del error
        self._over.set()
        self._minutes.join()

    @property
    def left(self) -> int:
        """Rows that are not made."""
        return self.total - self.made

    def tick(self, row: Row, result: Mapping[str, Any]) -> None:
        """Count a row that was made, well or not."""
        self.made += 1
        self.failed += "error" in result
        told = {name: result[name] for name in ("error", "folder") if name in result}
        self._tell(
            event="row",
            row=row.number,
            line=row.line,
            status="failed" if "error" in result else "done",
            **told,
            seconds=result["seconds"],
            made=self.made,
            rows=self.total,
            failed=self.failed,
            left=round(self._left(), 1),
        )

    def end(self, done: int, failed: int, *, stopped: bool) -> None:
        """Say how it ended."""
        how = "stopped" if stopped else "ended"
        self._say(f"{how}: {self.made} rows made, {done} done in all, {failed} failed")
        self._tell(event="end", made=self.made, done=done, failed=failed, stopped=stopped)

    def _left(self) -> float:
        """Seconds to the end, as those so far."""
        return self.left * (time.monotonic() - self._began) / max(1, self.made)

    def _say_minutes(self) -> None:
        # Of a thread: a row may take longer, or hang.
        while not self._over.wait(_EVERY):
            rate = 60 * self.made / (time.monotonic() - self._began)
            told = f"{self.made} of {self.total} rows, {self.failed} failed, {rate:.1f} a minute"
            self._say(f"{told}, {lasting(self._left())} left" if self.made else told)

    def _tell(self, **event: Any) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _say(self, words: str) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {words}\n")


def lasting(seconds: float) -> str:
    """Return a time in words: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
