"""Frames of a film, read one after the other by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from masactrl.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FilmReader", "is_film", "pyav"]

_ENDINGS: Final = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")


def is_film(path: Path) -> bool:
    """Whether a file is a film, by its ending."""
    return path.suffix.lower() in _ENDINGS


def pyav(what: str) -> Any:
    """Return the module `av`; ``what`` needs it.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtra(what, extra="video") from error
    return av


class FilmReader:
    """A film's frames by number; quick in their order, since a film is decoded from its begin.

    Args:
        path: of the film.

    Raises:
        ConfigError: it cannot be read, or shows nothing.
        MissingExtra: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next, self._left = 0, iter(())  # type: tuple[int, Iterator[Image.Image]]
        self.count = sum(1 for _ in self._decoded())
        if self.count == 0:
            raise ConfigError(f"The film {path} has no frames.")

    def frame(self, number: int) -> Image.Image:
        """Return frame ``number``, from 0, as RGB."""
        if number < self._next:
            self._next, self._left = 0, iter(())
        if self._next == 0:
            self._left = self._decoded()
        for picture in self._left:
            self._next += 1
            if self._next == number + 1:
                return picture
        raise ConfigError(f"The film {self._path} has no frame {number + 1}; was it changed?")

    def _decoded(self) -> Iterator[Image.Image]:
        av = pyav("Reading a film")
        try:
            with av.open(str(self._path)) as container:
                for one in container.decode(video=0):
                    yield one.to_image()
        except (av.error.FFmpegError, OSError, IndexError) as error:
            raise ConfigError(f"The film {self._path} cannot be read: {error}.") from error
