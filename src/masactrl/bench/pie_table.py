"""PIE-Bench's table: means of our rows, the published rows beside them with their sources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masactrl.batch.pie_data import TYPES

__all__ = ["COLUMNS", "PUBLISHED", "PublishedRow", "TableRow", "summarise_pie", "table_text"]

COLUMNS = (
    ("structure_distance", "structure x1e3", 1e3),
    ("psnr_unedit_part", "PSNR", 1.0),
    ("lpips_unedit_part", "LPIPS x1e3", 1e3),
    ("mse_unedit_part", "MSE x1e4", 1e4),
    ("ssim_unedit_part", "SSIM x1e2", 1e2),
    ("clip_similarity_target_image", "CLIP whole", 1.0),
    ("clip_similarity_target_image_edit_part", "CLIP edited", 1.0),
)
"""The published columns: metric, heading, and what it is multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A row of a paper, in the order and units of `COLUMNS`."""

    label: str
    values: tuple[float, ...]
    source: str


_JU = "Ju et al., Direct Inversion, ICLR 2024, Table 1"
PUBLISHED = tuple(
    PublishedRow(label=label, values=values, source=_JU)
    for label, values in (
        ("DDIM + MasaCtrl", (28.38, 22.17, 106.62, 86.97, 79.67, 23.96, 21.16)),
        ("Direct + MasaCtrl", (24.70, 22.64, 87.94, 81.09, 81.33, 24.38, 21.35)),
        ("DDIM + P2P", (69.43, 17.87, 208.80, 219.88, 71.14, 25.01, 22.44)),
        ("Direct + P2P", (11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10)),
        ("DDIM + PnP", (28.22, 22.28, 113.46, 83.64, 79.05, 25.41, 22.55)),
        ("Direct + PnP", (24.29, 22.46, 106.06, 80.45, 79.68, 25.41, 22.62)),
    )
)
"""SD1.4 (PnP: SD1.5), all 700 pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """Means over items; `counts` say over how many, since NaN rows are left out of each."""

    label: str
    type_id: str | None
    items: int
    values: Mapping[str, float]
    counts: Mapping[str, int]


def summarise_pie(
    rows: Iterable[Mapping[str, Any]], metrics: Sequence[str]
) -> tuple[TableRow, ...]:
    """For every label the mean over all items, then over each editing type that it has."""
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            by_label.setdefault(row["label"], []).append(row)
    found = []
    for label, members in by_label.items():
        found.append(_mean(label, None, members, metrics))
        for type_id in TYPES:
            of_type = [row for row in members if row["type"] == type_id]
            if of_type:
                found.append(_mean(label, type_id, of_type, metrics))
    return tuple(found)


def _mean(
    label: str, type_id: str | None, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> TableRow:
    values, counts = {}, {}
    for metric in metrics:
        numbers = [
            float(row["figures"][metric]) for row in rows if row["figures"].get(metric) is not None
        ]
        counts[metric] = len(numbers)
        values[metric] = sum(numbers) / len(numbers) if numbers else math.nan
    return TableRow(label=label, type_id=type_id, items=len(rows), values=values, counts=counts)


def table_text(rows: Sequence[TableRow]) -> str:
    """Markdown: our rows, then the published ones with their source."""
    headings = ["row", "pictures", *(heading for _, heading, _ in COLUMNS)]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for row in rows:
        name = row.label
        if row.type_id is not None:
            name = f"{row.label}, type {row.type_id} ({TYPES[row.type_id]})"
        cells = []
        for metric, _, factor in COLUMNS:
            value = row.values[metric]
            cells.append("-" if math.isnan(value) else f"{factor * value:.2f}")
        lines.append("| " + " | ".join([name, str(row.items), *cells]) + " |")
    for published in PUBLISHED:
        cells = [f"{value:.2f}" for value in published.values]
        lines.append("| " + " | ".join([f"{published.label} *", "700", *cells]) + " |")
    return "\n".join([*lines, "", f"\\* published: {_JU}.", ""])
