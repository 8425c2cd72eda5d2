"""All rows on one page to look at: thumbnails, figures, filters, failures first.

The page holds everything itself, also the thumbnails of the first rows; a thumbnail opens the
picture, which lies beside the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape
from PIL import Image

from masactrl._version import __version__
from masactrl.batch.figures import FIGURES
from masactrl.batch.results import RowResult
from masactrl.pictures.files import write_text
from masactrl.pictures.images import DAMAGED

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"
_SIDE = 128  # pixels of a thumbnail
_EMBEDDED = 2000  # rows; a page of more would be too large to open, and shows the files themselves
_ORDER = {"failed": 0, "wrong": 1, "open": 2, "done": 3}


def write_report(folder: Path, results: Sequence[RowResult], *, title: str) -> Path:
    """Write the page of a run; return its path.

    Args:
        folder: of the run.
        results: all rows.
        title: what stands above it.

    Raises:
        OutputError: it cannot be written.
    """
    ordered = sorted(results, key=lambda one: (_ORDER[one.status], one.number))
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = files("masactrl.batch").joinpath("report.html.jinja").read_text(encoding="utf-8")
    counts = {status: sum(one.status == status for one in results) for status in _ORDER}
    carried = dict.fromkeys(name for one in results if one.row for name in one.row.carried)
    page = environment.from_string(source).render(
        title=title,
        version=__version__,
        counts={status: count for status, count in counts.items() if count},
        figures=FIGURES,
        carried=list(carried),
        rows=[_card(folder, one, embedded=place < _EMBEDDED) for place, one in enumerate(ordered)],
    )
    return write_text(folder / REPORT, page)


def _card(folder: Path, one: RowResult, *, embedded: bool) -> dict[str, Any]:
    values = one.values()
    pictures = []
    for name in one.pictures:
        path = f"{one.folder}/{name}.png"
        shown = _thumbnail(folder / path) if embedded else path
        pictures.append({"name": name.replace("-", " "), "path": path, "shown": shown})
    known = {name: value for name, value in one.figures.items() if value is not None}
    carried = {} if one.row is None else one.row.carried
    words = [one.source_prompt, *one.prompts, one.error, values["source"] or ""]
    words += [str(value) for value in carried.values()]
    return {
        "number": one.number,
        "line": one.line,
        "status": one.status,
        "error": one.error,
        "source": values["source"],
        "source_prompt": one.source_prompt,
        "prompts": one.prompts,
        "pictures": pictures,
        "figures": known,
        "seconds": one.seconds,
        "warnings": one.warnings,
        "settings": values["settings"],
        "carried": carried,
        "words": " ".join(words).lower(),
    }


def _thumbnail(path: Path) -> str:
    """A picture in small, as an address that holds it; empty where it cannot be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except DAMAGED:
        return ""
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
