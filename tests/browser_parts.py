"""What the browser tests do again and again on the studio's page."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

MARKS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:gradio"),
]
WAIT = 240_000  # milliseconds; a busy machine takes its time, and a quick one does not wait


def opened(browser: Browser, address: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.wait_for_selector("#set-run")
    yield page
    page.close()


def kept(page: Page, name: str) -> None:
    """Keep a screenshot where the environment says, for people to look at."""
    if folder := os.environ.get("MASACTRL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def unfold(page: Page) -> None:
    if not number(page, "Width").is_visible():
        page.locator("button:visible", has_text="Advanced").first.click()
        number(page, "Width").wait_for()


def number(page: Page, label: str) -> Locator:
    return page.locator("input[type=number]:visible").and_(page.get_by_label(label)).first


def small(page: Page, steps: int = 2) -> None:
    """Ask for the least there is: few pixels, few steps."""
    unfold(page)
    for label, value in (("Width", 16), ("Height", 16), ("Steps", steps)):
        number(page, label).fill(str(value))
        number(page, label).press("Tab")
    if not page.get_by_label("Start step S").first.is_visible():
        return  # the grid has a list of them
    expected = min(round(4 * steps / 50), steps - 1)  # S moves along
    page.wait_for_function(
        "s => [...document.querySelectorAll('input[type=number]')].some(e => e.value == s && "
        "(e.ariaLabel || e.labels[0]?.innerText || '').includes('Start step'))",
        arg=str(expected),
    )


def refilled(page: Page, values: Mapping[str, str]) -> None:
    """Fill the fields of these labels until they keep it.

    A tab that is opened for the first time is still being built: what is typed then may be lost.
    """
    for _ in range(20):
        lost = [name for name, value in values.items() if read(page, name) != value]
        if not lost:
            return
        for name in lost:
            page.get_by_label(name).fill(values[name])
            page.get_by_label(name).press("Tab")
        page.wait_for_timeout(500)
    raise AssertionError(f"The fields {', '.join(lost)} do not keep what is typed.")


def read(page: Page, label: str) -> str:
    return page.get_by_label(label).input_value()


def choose(panel: Locator, label: str, value: str) -> None:
    panel.get_by_label(label).click()
    panel.page.get_by_role("option", name=value, exact=True).click()


def recipe_of(page: Page, address: str) -> dict[str, Any]:
    with Image.open(io.BytesIO(page.request.get(address).body())) as image:
        image.load()
        found: dict[str, Any] = json.loads(image.info["masactrl"])
        return found


def pictures(page: Page, tab: str, count: int) -> list[str]:
    page.wait_for_function(
        "([tab, count]) => document.querySelectorAll(`#${tab}-pictures img`).length >= count",
        arg=[tab, count],
    )
    found: list[str] = page.locator(f"#{tab}-pictures img").evaluate_all(
        "all => all.map(one => one.src)"
    )
    return found


def photo(page: Page, folder: Path) -> Locator:
    """Upload a picture on the tab of photos; return the tab."""
    made = Image.new("RGB", (64, 64), (90, 150, 90))
    made.paste((200, 40, 40), (16, 20, 48, 52))
    made.save(folder / "photo.png")
    page.get_by_role("tab", name="Edit a photo").click()
    page.locator("input[type=file]:visible, input[type=file]").first.wait_for(state="attached")
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#edit-run"))
    panel.locator("input[type=file]").first.set_input_files(str(folder / "photo.png"))
    panel.get_by_label("What you want instead, one a line").fill("a running dog")
    return panel


def short(page: Page, panel: Locator) -> None:
    """Ask for two steps, controlled from the second on."""
    panel.get_by_role("button", name="Advanced").click()
    for label, value, follows in (("Steps", 2, 0), ("Start step", 1, 1)):
        number(page, label).fill(str(value))
        number(page, label).press("Tab")
        page.wait_for_function(  # S moves along with the steps, when the server has answered
            "s => [...document.querySelectorAll('input[type=number]')].some(e => e.value == s && "
            "e.offsetParent && (e.ariaLabel || e.labels[0]?.innerText || '')"
            ".includes('Start step'))",
            arg=str(follows),
        )
        page.wait_for_timeout(2000)


def look(page: Page, tab: str, x: int, y: int) -> None:
    """Click a point of the result until the page says where it looked.

    A click that falls while the page still moves is lost, as a person's would be; who sees nothing
    come of several draws the set again.
    """
    from playwright.sync_api import TimeoutError as TooLate

    shown = page.locator(f"#{tab}-attention img")
    for patience in (WAIT / 12, WAIT / 12, WAIT / 6, WAIT / 6):
        page.locator(f"#{tab}-click img").wait_for()
        for _ in range(2):
            page.locator(f"#{tab}-click img").click(position={"x": x, "y": y})
            with contextlib.suppress(TooLate):
                shown.wait_for(timeout=patience)
                return
        page.click(f"#{tab}-run")
        page.wait_for_timeout(5000)
    shown.wait_for()
