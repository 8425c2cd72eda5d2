"""What Gradio keeps of visitors goes when they leave."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the studio needs the extra app")

from gradio.processing_utils import save_file_to_cache
from PIL import Image

from masactrl.app.leftovers import Leftovers, own_folder, remove_orphans


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def upload(cache: Path, name: str) -> str:
    """A file as Gradio keeps what a browser sends."""
    folder = cache / f"hash-of-{name}"
    folder.mkdir()
    path = folder / f"{name}.png"
    Image.new("RGB", (8, 8), (len(name), 0, 0)).save(path)
    return str(path)


def shown(visit: Path, cache: Path, level: int) -> Path:
    """A result in a visitor's folder, and Gradio's copy of it."""
    visit.mkdir(exist_ok=True)
    path = visit / "target1.png"
    Image.new("RGB", (8, 8), (0, level, 0)).save(path)
    return Path(save_file_to_cache(path, str(cache)))


def test_uploads_and_copies_go_with_their_visitor_alone(cache: Path, tmp_path: Path) -> None:
    kept = Leftovers(cache)
    one, other, layer = (upload(cache, name) for name in ("one", "other", "layer"))
    kept.claim("a", one, 3, None, {"layers": [layer], "background": None})
    kept.claim("b", other)
    (Path(layer).parent / "painted.png").touch()  # the mask made of it
    first = shown(tmp_path / "a", cache, 1)
    second = shown(tmp_path / "b", cache, 2)
    kept.leave("a", tmp_path / "a")
    assert not Path(one).parent.exists()
    assert not Path(layer).parent.exists()
    assert not first.exists()
    assert Path(other).exists()
    assert second.exists()
    kept.leave("b", tmp_path / "b")
    assert list(cache.rglob("*.png")) == []


def test_the_pages_own_examples_stay_until_the_server_ends(cache: Path, tmp_path: Path) -> None:
    kept = Leftovers(cache)
    example = upload(cache, "example")
    kept.keep()
    own = upload(cache, "own")
    kept.claim("a", example, own)
    kept.leave("a", None)  # who chose the example, and was alone
    assert Path(example).exists()
    assert not Path(own).exists()
    kept.clear()
    assert not Path(example).exists()


def test_what_two_visitors_sent_stays_until_both_have_left(cache: Path) -> None:
    kept = Leftovers(cache)
    path = upload(cache, "same")
    kept.claim("a", path)
    kept.claim("b", [path])
    kept.leave("a", None)
    assert Path(path).exists()
    kept.leave("b", None)
    assert not Path(path).exists()


def test_other_servers_files_and_other_folders_are_left_alone(cache: Path, tmp_path: Path) -> None:
    old = Path(upload(cache, "old"))
    mine = tmp_path / "mine.png"
    mine.touch()
    kept = Leftovers(cache)
    kept._began += 3600  # the file was there an hour before
    kept.claim("a", str(mine))
    kept.leave("a", None)
    assert old.exists()
    assert mine.exists()


def test_folders_of_killed_servers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    running = own_folder()
    assert str(os.getpid()) in running.name
    dead = tmp_path / "masactrl-studio-999999999-abc"
    unknown = tmp_path / "masactrl-studio-notes"
    for folder in (dead, unknown):
        folder.mkdir()
        (folder / "a.png").touch()
    remove_orphans()
    assert running.exists()
    assert unknown.exists()
    assert not dead.exists()
    shutil.rmtree(running)
