"""The studio served on this machine, and a browser; skipped where there is none."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_models
from browser_parts import opened
from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    driver = pytest.importorskip(
        "playwright.sync_api", reason="the browser tests need: pip install playwright"
    )
    # One browser at a time on this machine: two of them starve each other of what draws a page.
    lock = FileLock(Path(tempfile.gettempdir()) / "masactrl-browser-tests.lock")
    with lock, driver.sync_playwright() as started:
        own = Path(started.chromium.executable_path)
        system = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        if not own.exists() and system is None:
            pytest.skip("no browser is installed: playwright install chromium-headless-shell")
        path = {} if own.exists() else {"executable_path": system}
        made = started.chromium.launch(args=["--no-sandbox"], **path)
        yield made
        made.close()


@pytest.fixture(scope="module")
def address(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    reason = "the studio needs the extra app: pip install 'masactrl[app]'"
    pytest.importorskip("gradio", reason=reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from masactrl.app.page import build, serve
        from masactrl.app.studio import Studio
        from masactrl.cli.app import free_port
        from masactrl.models import load_pipeline

        network = tmp_path_factory.mktemp("networks") / "pose"
        tiny_models.sd_controlnet().controlnet.save_pretrained(network)
        studio = Studio(
            model=load_pipeline(model_folder, device="cpu"),
            words="models/tiny",
            networks={"pose": str(network)},
        )
        page = build(studio)
        yield serve(page, port=free_port("127.0.0.1"), wait=False)
        page.close()
        studio.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    yield from opened(browser, address)
