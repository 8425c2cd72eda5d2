"""Files that are there whole or not at all: written beside their place, then renamed into it.

write_text(path, text)

with written_whole(path) as beside:
    picture.save(beside)
"""

from __future__ import annotations

import codecs
import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from masactrl.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["at_home", "read_text", "write_text", "written_whole"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What editors and shells of Windows begin text files with, the longer mark first."""


def at_home(path: Path | str) -> Path:
    """Return a path with `~` as the home that it is; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_text(path: Path) -> str:
    """Return a text file: UTF-8, or what its byte order mark says; every line ends in one newline.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is text of another encoding, or none (a ValueError).
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding).replace("\r\n", "\n")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a free name beside `path`; what is written there takes its place in the end.

    A file that is at `path` is replaced, and stays as it is when the writing fails. Nothing is left
    beside it then.

    Args:
        path: where to; its folder must exist.

    Raises:
        OutputError: an OSError came up in between; the sentence has its reason.
    """
    # With the ending of the file, by which some libraries choose the format.
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)  # noqa: PTH105 - says that an existing file is replaced
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):  # after the rename there is nothing left to remove
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all; a file that is there is replaced. Returns its path.

    Raises:
        OutputError: it cannot be written there.
    """
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path
