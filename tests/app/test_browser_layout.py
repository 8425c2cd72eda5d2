"""Layouts and animations in a real browser: a picture says where things go, a film plays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_parts import MARKS, choose, kept, pictures, recipe_of, small
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = MARKS


def test_a_layout_is_given_with_a_set(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (200, 40, 40)).save(tmp_path / "pose.png")
    small(page)
    page.locator("button:visible", has_text="Layout: say where things go").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#set-run"))
    panel.locator("input[type=file]").first.set_input_files(str(tmp_path / "pose.png"))
    panel.locator("img[alt='']:visible, .image-frame img:visible").first.wait_for()
    kept(page, "20-layout-given")
    page.click("#set-run")
    shown = pictures(page, "set", 5)
    recipe = recipe_of(page, shown[0])
    assert [one["name"] for one in recipe["inputs"]] == ["pose.png"]
    assert recipe["request"]["layouts"][0]["kind"] == "pose"
    assert "--layout pose=pose.png" in page.locator("#set-command textarea").input_value()
    kept(page, "21-layout")


def test_an_animation_plays(page: Page) -> None:
    page.get_by_role("tab", name="Animate").click()
    page.wait_for_selector("#animate-run:visible")
    small(page)
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#animate-run"))
    choose(panel, "Poses", "jump")
    panel.get_by_label("Frames", exact=False).first.fill("3")
    panel.get_by_label("Frames", exact=False).first.press("Tab")
    page.click("#animate-run")
    shown = pictures(page, "animate", 4)
    recipe = recipe_of(page, shown[1])
    assert (recipe["kind"], recipe["picture"]) == ("animate", "frame0001")
    assert (recipe["request"]["poses"], recipe["request"]["layout"]["files"]) == ("jump", 3)
    kept(page, "22-animation")
    if page.locator("#animate-film video").count() == 0:
        pytest.skip("PyAV is not there: the film is a GIF")
    page.wait_for_function("() => document.querySelector('#animate-film video')?.duration > 0")
    assert not page.locator("#animate-film video").evaluate("film => film.error")
