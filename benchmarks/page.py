"""A page whose tables are measured: each lies between two marks of its own, the rest is text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_into(page: Path, section: str, text: str) -> None:
    """Replace what stands between the marks of a section; a missing page is made of the text alone.

    Args:
        page: Markdown; all outside the marks is left as it is.
        section: name in the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
        text: what goes between them.

    Raises:
        SystemExit: the page has no such marks.
    """
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    old = page.read_text(encoding="utf-8") if page.exists() else f"{begin}\n{end}\n"
    if begin not in old or end not in old:
        raise SystemExit(f"{page} has no marks {begin} and {end}; add them where the table goes.")
    before, rest = old.split(begin, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
