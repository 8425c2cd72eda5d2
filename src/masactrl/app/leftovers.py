"""What Gradio keeps of visitors beside the studio's own folders, and its removal.

Gradio copies every picture that a page shows into a cache of its own, and uploads land there, too;
both are served until the server ends. Who leaves takes along: what was uploaded, the copies of the
pictures in the visitor's folder, and, where nobody else is there, all that the cache got meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["Leftovers", "own_folder", "remove_orphans"]

_PREFIX: Final = "masactrl-studio-"
_FOLDER: Final = re.compile(rf"{_PREFIX}(\d+)-\w+")


class Leftovers:
    """Gradio's cache of one server: which visitor's file is which.

    Args:
        cache: Gradio's folder of copies and uploads. It may be shared with other servers, so
            nothing in it that is older than this object is touched.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache.resolve()
        self._began = time.time()
        self._claims: dict[str, set[Path]] = {}
        self._page: frozenset[Path] = frozenset()
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Take what the cache holds now for the page's own (its examples): nobody's to remove."""
        self._page = frozenset(path for path in self._cache.rglob("*") if path.is_file())

    def claim(self, session: str, *values: Any) -> None:
        """Note the files of the cache that a visitor's values name: uploads, layers of paint."""
        found = {path for path in _paths(values) if path.is_relative_to(self._cache)}
        found -= self._page
        with self._lock:
            self._claims.setdefault(session, set()).update(found)

    def leave(self, session: str, folder: Path | None) -> None:
        """Remove what is a visitor's alone.

        Args:
            session: who leaves.
            folder: with the visitor's pictures, while they are still there; None for none.
        """
        with self._lock:
            gone = self._claims.pop(session, set())
            others = set().union(*self._claims.values())
            alone = not self._claims
        taken = {path.parent for path in others}
        for path in gone - others:
            # Uploads have a folder of their own, in which the mask of painted layers lies, too.
            if path.parent.parent == self._cache and path.parent not in taken:
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if folder is not None:
            kept = {path.parent.name for path in others}
            for copy in self._copies(folder):
                if copy.name not in kept and not any(p.parent == copy for p in self._page):
                    shutil.rmtree(copy, ignore_errors=True)
        if alone:
            self._remove(but=self._page)

    def clear(self) -> None:
        """Remove all that the cache got since this server began."""
        self._remove(but=frozenset())

    def _remove(self, *, but: frozenset[Path]) -> None:
        for path in sorted(self._cache.rglob("*"), reverse=True):
            try:
                if path.is_dir():
                    path.rmdir()  # only where it is empty by now
                elif path not in but and path.stat().st_ctime >= self._began - 1:
                    path.unlink()
            except OSError:
                continue  # somebody else's, or gone already

    def _copies(self, folder: Path) -> list[Path]:
        """The folders in the cache, named by content, of the files in a visitor's folder."""
        from gradio.processing_utils import hash_file

        files = [path for path in folder.rglob("*") if path.is_file()]
        return [self._cache / hash_file(path) for path in files]


def own_folder() -> Path:
    """Make and return the folder of a new server; its name says which process it belongs to."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def remove_orphans() -> None:
    """Remove the folders of servers that were killed before they could do so themselves."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        match = _FOLDER.fullmatch(path.name)
        if match is not None and not _runs(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    import psutil  # type: ignore[import-untyped]  # of accelerate's; it has no types

    return bool(psutil.pid_exists(process))


def _paths(values: Any) -> Iterable[Path]:
    """Every absolute path in values as Gradio gives them: texts, in lists and mappings."""
    if isinstance(values, str | Path):
        path = Path(values)
        if len(str(values)) < 4096 and path.is_absolute():
            yield path.resolve()
    elif isinstance(values, Mapping):
        yield from _paths(list(values.values()))
    elif isinstance(values, list | tuple):
        for one in values:
            yield from _paths(one)
