"""Files that are there whole or not at all: written beside their place, then renamed into it.

write_text(path, text)

with written_whole(path) as beside:
    picture.save(beside)
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from masactrl.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["write_text", "written_whole"]


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
