"""PIE-Bench as a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masactrl.batch.pie_data import IMAGES, read_pie
from masactrl.errors import ConfigError
from masactrl.settings.prompt_weights import literal

__all__ = ["pie_rows"]


def pie_rows(folder: Path) -> Iterator[dict[str, Any] | ConfigError]:
    """Yield the benchmark's items as rows; for one that cannot be used, why.

    The source is inverted without its prompt, as published for MasaCtrl; the data's own is carried
    along as `original_prompt`.

    Raises:
        ConfigError: the folder is none of the benchmark's.
    """
    data = read_pie(folder)
    for item in data.items:
        yield {
            "file_name": str((folder / IMAGES / item.image_path).absolute()),
            "target_prompt": literal(item.target_prompt),
            "original_prompt": item.source_prompt,
            "editing_type_id": item.type_id,
            "pie_key": item.key,
        }
    for problem in data.problems:
        yield ConfigError(f"{problem.key}: {problem.reason}.")
