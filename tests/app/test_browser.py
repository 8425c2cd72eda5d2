"""The studio in a real browser: what a person does, and two persons at once."""

from __future__ import annotations

import contextlib
import io
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
    if not page.get_by_label("Start step S").first.is_visible():
        return  # the grid has a list of them
    expected = min(round(4 * steps / 50), steps - 1)  # S moves along
    page.wait_for_function(
        "s => [...document.querySelectorAll('input[type=number]')].some(e => e.value == s && "
        "(e.ariaLabel || e.labels[0]?.innerText || '').includes('Start step'))",
        arg=str(expected),
    )


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


def test_a_set_is_drawn_and_its_png_holds_the_recipe(page: Page) -> None:
    kept(page, "1-first")
    page.get_by_label("What the source shows").first.fill("a small dog")
    small(page)
    page.click("#set-run")
    shown = pictures(page, "set", 5)
    kept(page, "2-set")
    recipe = recipe_of(page, shown[0])
    assert recipe["request"]["source_prompt"] == "a small dog"
    assert recipe["request"]["steps"] == 2
    assert "tiny on cpu" in page.inner_text("#set-note")


def test_a_click_on_the_result_shows_where_it_looked(page: Page) -> None:
    page.get_by_label("What the source shows").first.fill("a small cat")
    small(page, steps=3)
    page.click("#set-run")
    pictures(page, "set", 5)
    page.locator("#set-click img").wait_for()
    page.locator("#set-click img").click(position={"x": 40, "y": 60})
    page.locator("#set-attention img").wait_for()
    first = page.locator("#set-attention img").get_attribute("src")
    kept(page, "7-looked")
    panel = page.locator("#set-looking")
    choose(panel, "Layer", "13")
    page.wait_for_function(
        "before => document.querySelector('#set-attention img')?.src != before", arg=first
    )
    src = page.locator("#set-attention img").get_attribute("src") or ""
    recipe = recipe_of(page, src)
    assert (recipe["kind"], recipe["request"]["layer"]) == ("attention", 13)
    ((x, y),) = recipe["request"]["points"]
    assert 0 <= x < 16
    assert 0 <= y < 16
    kept(page, "8-looked-layer")


def test_a_painted_mask_is_the_subject(page: Page, tmp_path: Path) -> None:
    panel = photo(page, tmp_path)
    panel.get_by_role("button", name="Subject: keep it apart").click()
    canvas = page.locator("#edit-paint canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)  # until the canvas shows the picture
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for _ in range(6):  # until the canvas is ready to be painted on
        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.35 * box["height"])
        page.mouse.down()
        for part in range(8):
            place = (0.4 + 0.02 * part, 0.35 + 0.03 * part)
            page.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"])
            page.wait_for_timeout(50)
        page.mouse.up()
        with contextlib.suppress(driver.TimeoutError):
            page.locator("#edit-subject img").wait_for(timeout=WAIT / 6)
            break
    page.locator("#edit-subject img").wait_for()
    kept(page, "9-painted")
    short(page, panel)
    page.click("#edit-run")
    shown = pictures(page, "edit", 5)
    recipe = recipe_of(page, shown[1])
    assert recipe["request"]["masks"]["by"] == "pictures"
    assert recipe["inputs"][1]["name"] == "painted-mask.png"
    kept(page, "10-masked")


def test_a_mask_file_lies_over_the_picture(page: Page, tmp_path: Path) -> None:
    panel = photo(page, tmp_path)
    drawn = Image.new("L", (64, 64))
    drawn.paste(255, (10, 10, 40, 50))
    drawn.save(tmp_path / "mask.png")
    panel.get_by_role("button", name="Subject: keep it apart").click()
    page.wait_for_timeout(1000)
    files = panel.locator("input[type=file]")
    files.nth(files.count() - 1).set_input_files(str(tmp_path / "mask.png"))
    page.locator("#edit-subject img").wait_for()
    kept(page, "11-mask-file")


def test_a_grid_states_its_cost_first(page: Page) -> None:
    page.get_by_role("tab", name="Grid").click()
    page.wait_for_selector("#grid-run:visible")
    page.get_by_label("Start steps S").fill("0, 1")
    page.get_by_label("Start layers L").fill("10, 12")
    small(page)
    page.wait_for_selector("text=4 cells and two plain pictures, 2 steps each: 12 steps in all.")
    page.click("#grid-run")
    assert len(pictures(page, "grid", 4)) == 4
    kept(page, "12-grid")


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
    panel.get_by_role("button", name="Advanced").click()
    for label, value in (("Steps", 2), ("Start step", 1)):
        number(page, label).fill(str(value))
        number(page, label).press("Tab")
        page.wait_for_timeout(2000)  # until S has moved along with the steps


def test_a_photo_is_edited(page: Page, tmp_path: Path) -> None:
    panel = photo(page, tmp_path)
    short(page, panel)
    page.click("#edit-run")
    assert len(pictures(page, "edit", 4)) >= 4
    assert "Reconstruction" in page.inner_text("#edit-note")
    page.locator("#edit-slider img").nth(1).wait_for(state="attached")  # before and after
    page.locator("#edit-click img").click(position={"x": 30, "y": 30})
    page.locator("#edit-attention img").wait_for()
    kept(page, "6-edit")


def test_what_is_no_picture_is_said_on_the_tab_of_photos(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.get_by_role("tab", name="Edit a photo").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#edit-run"))
    panel.locator("input[type=file]").first.wait_for(state="attached")
    panel.locator("input[type=file]").first.set_input_files(str(tmp_path / "broken.png"))
    page.wait_for_selector("text=/broken.png is/")
    assert "/tmp/" not in page.inner_text("body")


def test_stop_ends_a_run_that_waits(browser: Browser, address: str) -> None:
    first, second = opened(browser, address), opened(browser, address)
    one, two = next(first), next(second)
    small(one, steps=900)
    small(two)
    one.click("#set-run")
    one.wait_for_selector("text=/\\d+\\/900/")
    two.click("#set-run")
    two.wait_for_timeout(2000)
    two.click("#set-stop")
    one.click("#set-stop")
    two.wait_for_selector("text=nothing was kept")
    assert two.locator("#set-pictures img").count() == 0
    for visit in (first, second):
        next(visit, None)


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
        page.wait_for_selector("#set-command")
        command = page.locator("#set-command textarea").input_value()
        assert f"'{words}'" in command
        assert other not in command + page.inner_text("body")
    for visit in (first, second):
        next(visit, None)
