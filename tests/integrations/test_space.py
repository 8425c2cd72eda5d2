"""The Space's page: its functions as ZeroGPU calls them, and that it is built."""

from __future__ import annotations

import gc
import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the Space's page needs the extra app")
# gradio leaves event loops and sockets behind while it draws a page.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FOLDER = Path(__file__).parents[2] / "integrations" / "space"


def zero_gpu(asked: list[tuple[str, int]]) -> ModuleType:
    """A stand-in for the package of ZeroGPU: values and results go between two processes there."""

    def gpu(*, duration: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*values: Any) -> Any:
                asked.append((function.__name__, duration))
                return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(values)))))

            call.__name__ = function.__name__
            return call

        return decorated

    made = ModuleType("spaces")
    made.GPU = gpu  # type: ignore[attr-defined]
    return made


@pytest.fixture
def space(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Any, list[Any]]]:
    asked: list[tuple[str, int]] = []
    monkeypatch.setitem(sys.modules, "spaces", zero_gpu(asked))
    spec = importlib.util.spec_from_file_location("space_app", FOLDER / "app.py")
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.STEPS = 1
    yield made, asked
    gc.collect()  # here, where what gradio leaves is expected


def test_its_functions_draw_as_zero_gpu_calls_them(
    space: tuple[Any, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, asked = space
    import gradio as gr

    drawn = app.said(app.draw)(*app.SETS[0], 1.0)
    assert [name for _, name in drawn] == ["source", "target1 uncontrolled", "target1 controlled"]
    assert all(picture.size == (256, 256) for picture, _ in drawn)
    with pytest.raises(gr.Error, match="photo, or take one of the drawn animals"):
        app.said(app.edit)(None, "", "a cat running", 1.0)
    assert asked == [("draw", 60), ("edit", 120)]
    page = app.build(cache=False)
    assert {one.api_name for one in page.fns.values()} >= {"draw", "edit"}
    monkeypatch.setattr(app, "spaces", None)
    assert app.on_gpu(60)(zero_gpu) is zero_gpu


def test_what_a_space_asks_for_is_what_is_tested() -> None:
    pins = dict(
        line.split("==")
        for line in (FOLDER.parents[1] / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    card = (FOLDER / "README.md").read_text()
    assert f"sdk_version: {pins['gradio']}\n" in card
    assert "app_file: app.py" in card
    assert (FOLDER / "requirements.txt").read_text().startswith("masactrl[app]")
