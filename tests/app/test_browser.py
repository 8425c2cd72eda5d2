"""The studio in a real browser: what a person does, and two persons at once."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from masactrl.app.studio import Studio
from masactrl.cli.app import free_port
from masactrl.models import load_pipeline

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytest.importorskip("gradio", reason="the studio needs the extra app: pip install 'masactrl[app]'")
driver = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need: pip install playwright"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:gradio"),
]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WAIT = 60_000  # milliseconds; a busy machine takes its time


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driver.sync_playwright() as started:
        own = Path(started.chromium.executable_path)
        system = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        if not own.exists() and system is None:
            pytest.skip("no browser is installed: playwright install chromium-headless-shell")
        path = {} if own.exists() else {"executable_path": system}
        made = started.chromium.launch(args=["--no-sandbox"], **path)
        yield made
        made.close()


@pytest.fixture(scope="module")
def address(model_folder: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from masactrl.app.page import build, serve

        studio = Studio(model=load_pipeline(model_folder, device="cpu"), words="models/tiny")
        page = build(studio)
        yield serve(page, port=free_port("127.0.0.1"), wait=False)
        page.close()
        studio.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    yield from opened(browser, address)


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
    expected = min(round(4 * steps / 50), steps - 1)  # S moves along
    page.wait_for_function(
        "s => [...document.querySelectorAll('input[type=number]')].some(e => e.value == s && "
        "(e.ariaLabel || e.labels[0]?.innerText || '').includes('Start step'))",
        arg=str(expected),
    )


def pictures(page: Page, tab: str, count: int) -> list[str]:
    page.wait_for_function(
        "([tab, count]) => document.querySelectorAll(`#${tab}-pictures img`).length >= count",
        arg=[tab, count],
    )
    found: list[str] = page.locator(f"#{tab}-pictures img").evaluate_all(
        "all => all.map(one => one.src)"
    )
    return found


def test_a_set_is_drawn_and_its_png_holds_the_recipe(page: Page, tmp_path: Path) -> None:
    kept(page, "1-first")
    page.get_by_label("What the source shows").first.fill("a small dog")
    small(page)
    page.click("#set-run")
    shown = pictures(page, "set", 5)
    kept(page, "2-set")
    response = page.request.get(shown[0])
    (tmp_path / "a.png").write_bytes(response.body())
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        recipe = json.loads(image.info["masactrl"])
    assert recipe["request"]["source_prompt"] == "a small dog"
    assert recipe["request"]["steps"] == 2
    assert "tiny on cpu" in page.inner_text("#set-note")


def test_stop_stops_and_the_page_goes_on(page: Page) -> None:
    small(page, steps=900)
    page.click("#set-run")
    page.wait_for_selector("text=/\\d+\\/900/")
    page.click("#set-stop")
    page.wait_for_selector("text=nothing was kept")
    kept(page, "3-stopped")
    small(page)
    page.click("#set-run")
    assert pictures(page, "set", 5)


def test_a_mistake_is_a_sentence_in_the_page(page: Page) -> None:
    page.get_by_label("What the source shows").first.fill("  ")
    page.click("#set-run")
    page.wait_for_selector("text=The source prompt is empty")
    kept(page, "4-mistake")


def test_a_result_is_opened_and_fills_the_fields(page: Page, model: Any, tmp_path: Path) -> None:
    from masactrl.generate import GenerateRequest, generate

    request = GenerateRequest(
        source_prompt="a red bird", target_prompts=("a blue bird",), seed=99, steps=3, width=16,
        height=16, start_step=2,
    )  # fmt: skip
    generate(model, request).save(tmp_path)
    page.get_by_role("tab", name="Open a result").click()
    page.set_input_files("#open-file input[type=file]", str(tmp_path / "sheet.png"))
    page.wait_for_function(
        "() => [...document.querySelectorAll('textarea, input')].some(e => e.value == 'a red bird')"
    )
    page.wait_for_selector("#set-run:visible")
    unfold(page)
    kept(page, "5-opened")
    values = page.locator("input:visible, textarea:visible").evaluate_all(
        "all => all.map(one => one.value)"
    )
    assert {"a red bird", "a blue bird", "99", "3", "2"} <= set(values)


def test_what_is_no_picture_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    page.get_by_role("tab", name="Open a result").click()
    page.set_input_files("#open-file input[type=file]", str(tmp_path / "a.png"))
    page.wait_for_selector("text=/a.png cannot be read as a picture/")


def test_a_photo_is_edited(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 40, 40)).save(tmp_path / "photo.png")
    page.get_by_role("tab", name="Edit a photo").click()
    page.locator("input[type=file]:visible, input[type=file]").first.wait_for(state="attached")
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#edit-run"))
    panel.locator("input[type=file]").first.set_input_files(str(tmp_path / "photo.png"))
    panel.get_by_label("What you want instead, one a line").fill("a running dog")
    panel.get_by_role("button", name="Advanced").click()
    for label, value in (("Steps", 2), ("Start step", 1)):
        number(page, label).fill(str(value))
        number(page, label).press("Tab")
        page.wait_for_timeout(2000)  # until S has moved along with the steps
    page.click("#edit-run")
    assert len(pictures(page, "edit", 4)) >= 4
    assert "Reconstruction" in page.inner_text("#edit-note")
    kept(page, "6-edit")


def test_two_people_see_their_own_pictures(browser: Browser, address: str) -> None:
    first, second = opened(browser, address), opened(browser, address)
    one, two = next(first), next(second)
    for page, words in ((one, "a red cat"), (two, "a blue dog")):
        page.get_by_label("What the source shows").first.fill(words)
        small(page)
    one.click("#set-run")
    two.click("#set-run")
    seen = [pictures(page, "set", 5) for page in (one, two)]
    assert not set(seen[0]) & set(seen[1])
    for page, words, other in ((one, "a red cat", "a blue dog"), (two, "a blue dog", "a red cat")):
        text = page.inner_text("body")
        assert f"'{words}'" in text or words in text
        assert other not in text
    for visit in (first, second):
        next(visit, None)
