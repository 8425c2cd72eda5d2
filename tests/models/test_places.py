from __future__ import annotations

from pathlib import Path

import pytest

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.models import locate as places
from masactrl.models.locate import locate


def test_a_folder_in_diffusers_format(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    place = locate(tmp_path)
    assert (place.kind, place.source, place.name) == ("folder", str(tmp_path), tmp_path.name)


def test_a_single_file_is_named_by_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "dream.safetensors"
    path.touch()
    place = locate(str(path))
    assert (place.kind, place.source, place.name) == ("file", str(path), "dream")


def test_a_hub_id() -> None:
    place = locate("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert (place.kind, place.name) == ("hub", "stable-diffusion-v1-5/stable-diffusion-v1-5")


def test_what_is_on_the_disk_goes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("owner/name").kind == "folder"


@pytest.mark.parametrize("model", ["nothing", "a/b/c", "./a/b", "a\\b", "", "x.safetensors"])
def test_what_is_nothing_of_the_kind_says_what_is_accepted(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match=r"puppets.*diffusers format.*safetensors.*owner/name"):
        locate(model)


def test_a_path_is_never_taken_for_a_hub_id() -> None:
    with pytest.raises(ModelNotFound):
        locate(Path("owner/name"))


def test_other_folders_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model_index\.json"):
        locate(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelNotFound, match=r"no \.safetensors file"):
        locate(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["model.ckpt", "model.BIN", "model.pt", "owner/model.pth"])
def test_pickles_are_refused_whether_they_exist_or_not(name: str) -> None:
    with pytest.raises(ConfigError, match=r"pickle.*can run code.*\.safetensors"):
        locate(name)


def test_the_embedded_model_is_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "puppets" / "weights"
    weights.mkdir(parents=True)
    monkeypatch.setattr(places.resources, "files", lambda package: tmp_path)
    with pytest.raises(ModelNotFound, match="not part of this installation"):
        locate("puppets")
    (weights / "model_index.json").write_text("{}")
    place = locate("puppets")
    assert (place.kind, place.source, place.name) == ("folder", str(weights), "puppets")
