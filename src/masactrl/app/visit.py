"""What belongs to one visitor of the studio, and what a run gives back to the page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masactrl.errors import MasaCtrlError

if TYPE_CHECKING:
    from masactrl.app.watched import Watched
    from masactrl.edit import EditSession

__all__ = ["Made", "Report", "Running", "Stopped", "Visit"]

Report = Callable[[int, int], None]
"""Called after every step with how many are done and how many there are."""


class Stopped(MasaCtrlError):  # noqa: N818
    """The run was stopped by who asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a run gives back to the page.

    Attributes:
        shown: (path, caption) of every picture, in order.
        files: all that can be downloaded, recipes inside.
        recipe: as JSON text.
        command: that makes it again; empty where there is none.
        note: a line of figures and warnings.
        columns: in which the pictures stand.
        before_after: two paths for the slider; None where there is nothing to compare.
    """

    shown: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    recipe: str
    command: str
    note: str
    columns: int = 3
    before_after: tuple[str, str] | None = None


@dataclass(slots=True)
class Visit:
    """What belongs to one visitor.

    Attributes:
        folder: of the visitor's pictures.
        stop: set when the visitor wants the run to end.
        runs: how many there were.
        inverted: the last inverted picture, after what it was inverted from and how.
        watched: the last watched run of every tab.
    """

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    runs: int = 0
    inverted: tuple[tuple[Any, ...], EditSession] | None = None
    watched: dict[str, Watched] = field(default_factory=dict)

    def told(self, report: Report, total: int) -> Callable[[Any], None]:
        """Return the function that is called after every step: it reports, and it stops."""
        done = 0

        def told(_: Any) -> None:
            nonlocal done
            done += 1
            report(min(done, total), total)
            if self.stop.is_set():
                raise Stopped("Stopped.")

        return told


class Running:
    """Holds the device for one run, in a folder of its own."""

    def __init__(self, visit: Visit, device: threading.Lock) -> None:
        self._visit = visit
        self._device = device

    def __enter__(self) -> tuple[Visit, Path]:
        self._visit.stop.clear()
        self._device.acquire()
        self._visit.runs += 1
        folder = self._visit.folder / f"run{self._visit.runs}"
        folder.mkdir(parents=True)
        return self._visit, folder

    def __exit__(self, *error: object) -> None:
        self._device.release()
