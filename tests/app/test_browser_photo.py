"""The tab of photos in a real browser: masks, edits, what is no picture."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from browser_parts import MARKS, WAIT, kept, look, photo, pictures, recipe_of, short
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = MARKS


def test_a_painted_mask_is_the_subject(page: Page, tmp_path: Path) -> None:
    from playwright.sync_api import TimeoutError as TooLate  # there: the page was opened with it

    panel = photo(page, tmp_path)
    panel.get_by_role("button", name="Subject: keep it apart").click()
    canvas = page.locator("#edit-paint canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)  # until the canvas shows the picture
    for _ in range(6):  # until the canvas is ready to be painted on, and lies still
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.35 * box["height"])
        page.mouse.down()
        for part in range(8):
            place = (0.4 + 0.02 * part, 0.35 + 0.03 * part)
            page.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"])
            page.wait_for_timeout(50)
        page.mouse.up()
        with contextlib.suppress(TooLate):
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


def test_a_photo_is_edited(page: Page, tmp_path: Path) -> None:
    panel = photo(page, tmp_path)
    short(page, panel)
    page.click("#edit-run")
    assert len(pictures(page, "edit", 4)) >= 4
    assert "Reconstruction" in page.inner_text("#edit-note")
    page.locator("#edit-slider img").nth(1).wait_for(state="attached")  # before and after
    look(page, "edit", 30, 30)
    kept(page, "6-edit")


def test_a_preview_takes_fewer_steps(page: Page, tmp_path: Path) -> None:
    photo(page, tmp_path)
    page.click("#edit-preview")
    shown = pictures(page, "edit", 3)
    request = recipe_of(page, shown[-1])["request"]
    assert (request["steps"], request["start_step"], request["compare"]) == (20, 2, False)
    page.locator("#edit-slider img").nth(1).wait_for(state="attached")
    kept(page, "12-preview")


def test_what_is_no_picture_is_said_on_the_tab_of_photos(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.get_by_role("tab", name="Edit a photo").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#edit-run"))
    panel.locator("input[type=file]").first.wait_for(state="attached")
    panel.locator("input[type=file]").first.set_input_files(str(tmp_path / "broken.png"))
    page.wait_for_selector("text=/broken.png is/")
    assert "/tmp/" not in page.inner_text("body")
