"""The studio in a real browser: what a person does, and two persons at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from browser_parts import (
    MARKS,
    choose,
    kept,
    look,
    opened,
    pictures,
    recipe_of,
    refilled,
    small,
    unfold,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = MARKS


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
    look(page, "set", 40, 60)
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


def test_a_grid_states_its_cost_first(page: Page) -> None:
    page.get_by_role("tab", name="Grid").click()
    page.wait_for_selector("#grid-run:visible")
    axes = {"Start steps S": "0, 1", "Start layers L": "10, 12"}
    refilled(page, axes)
    small(page)
    refilled(page, axes)
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
    from masactrl.runs.generate import GenerateRequest, generate

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
