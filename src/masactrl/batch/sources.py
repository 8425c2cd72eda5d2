"""Inverted pictures that several rows share: kept in memory, then on the disk up to a limit."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from masactrl.errors import MasaCtrlError
from masactrl.runs.session_file import load_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession

__all__ = ["Sources"]

_IN_MEMORY = 8  # sessions; of all but the last without recorded features, so some megabytes each


class Sources:
    """Sessions by the key of their source.

    Args:
        folder: where they lie on the disk; several workers may share it.
        limit: bytes of all files there; 0 writes none.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._kept: OrderedDict[str, tuple[EditSession, bool]] = OrderedDict()

    def session(
        self, key: str, model: LoadedModel, make: Callable[[], EditSession], *, shared: bool
    ) -> EditSession:
        """Return the session of a source, which is made where it is nowhere.

        Args:
            key: of picture and inversion.
            model: that makes it.
            make: makes it.
            shared: whether other rows will want it, so that it is worth its place on the disk.
        """
        found = self._kept.pop(key, None)
        session = found[0] if found else self._read(key, model) or make()
        for other, _ in self._kept.values():
            other.forget()  # recorded features are large; the trajectory is not
        self._kept[key] = session, shared
        while len(self._kept) > _IN_MEMORY:
            name, (old, worth) = self._kept.popitem(last=False)
            if worth:
                self._write(name, old)
        return session

    def _read(self, key: str, model: LoadedModel) -> EditSession | None:
        path = self._path(key)
        if not path.exists():
            return None
        with contextlib.suppress(MasaCtrlError, OSError):  # of another model, or damaged
            return load_session(path, model)
        return None

    def _write(self, key: str, session: EditSession) -> None:
        """Keep it where there is room; what cannot be kept is inverted anew."""
        path = self._path(key)
        if not self.limit or path.exists():
            return
        with contextlib.suppress(MasaCtrlError, OSError):
            self.folder.mkdir(exist_ok=True)
            session.save(path)
            files = sorted(self.folder.glob("*.safetensors"), key=lambda one: one.stat().st_mtime)
            size = sum(one.stat().st_size for one in files)
            for oldest in files:
                if size <= self.limit:
                    break
                size -= oldest.stat().st_size
                oldest.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
