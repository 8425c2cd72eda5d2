"""What belongs to one visitor of the studio, and what a run gives back to the page."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masactrl.errors import ControlWarning, MasaCtrlError, out_of_memory

if TYPE_CHECKING:
    from masactrl.app.watched import Watched
    from masactrl.runs.invert import EditSession, InversionRequest

__all__ = ["Made", "Report", "Running", "Stopped", "Visit", "noted"]

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
        film: path of a moving picture, on the tab that has a player.
    """

    shown: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    recipe: str
    command: str
    note: str
    columns: int = 3
    before_after: tuple[str, str] | None = None
    film: str | None = None


@dataclass(slots=True)
class Visit:
    """What belongs to one visitor.

    Attributes:
        folder: of the visitor's pictures.
        gone: whether the visitor has left; what a run still makes is for nobody.
        stops: how often Stop was pressed.
        runs: how many there were.
        asked: what `stops` was when the run was asked for that still waits; None for none.
        since: the same of the run at hand.
        inverted: the last inverted picture, after what it was inverted from and how.
        watched: the last watched run of every tab.
    """

    folder: Path
    gone: bool = False
    stops: int = 0
    runs: int = 0
    asked: int | None = None
    since: int = 0
    inverted: tuple[tuple[Any, ...], EditSession] | None = None
    watched: dict[str, Watched] = field(default_factory=dict)

    @staticmethod
    def key(picture: Path, inversion: InversionRequest) -> tuple[Any, ...]:
        """Return what `inverted` is kept by."""
        from masactrl.models.origin import file_hash

        return file_hash(picture), inversion

    def keeps(self, picture: Path, inversion: InversionRequest) -> bool:
        """Whether the last inverted picture is this one, inverted in this way."""
        return self.inverted is not None and self.inverted[0] == self.key(picture, inversion)

    def check(self) -> None:
        """End the run at hand if it was stopped since it was asked for.

        Raises:
            Stopped: it was.
        """
        if self.stops > self.since:
            raise Stopped("Stopped.")

    def told(self, report: Report, total: int) -> Callable[[Any], None]:
        """Return the function that is called after every step: it reports, and it stops."""
        done = 0

        def told(_: Any) -> None:
            nonlocal done
            done += 1
            report(min(done, total), total)
            self.check()

        return told


class Running:
    """Holds the device for one run, in a folder of its own.

    A run that was stopped while it waited ends before it begins.
    """

    def __init__(self, visit: Visit, device: threading.Lock) -> None:
        self._visit = visit
        self._device = device

    def __enter__(self) -> tuple[Visit, Path]:
        visit = self._visit
        asked = visit.stops if visit.asked is None else visit.asked
        self._device.acquire()
        try:
            visit.since, visit.asked = asked, None
            visit.check()
            visit.runs += 1
            folder = visit.folder / f"run{visit.runs}"
            folder.mkdir(parents=True)
        except BaseException:
            self._device.release()
            raise
        return visit, folder

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and out_of_memory(error):
            self._visit.inverted = None
            self._visit.watched.clear()
        self._device.release()
        if self._visit.gone:
            shutil.rmtree(self._visit.folder, ignore_errors=True)
            if error is None:
                raise Stopped("The visitor has left.")


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect what this package warns of as sentences; other warnings are given on.

    For one thread at a time, as Python's own way of catching warnings.
    """
    sentences: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ControlWarning)
        yield sentences
    for one in caught:
        if issubclass(one.category, ControlWarning):
            sentences.append(str(one.message))
        else:
            warnings.warn_explicit(str(one.message), one.category, one.filename, one.lineno)
    sentences[:] = dict.fromkeys(sentences)
