"""The Hub is never asked here: its answers are given by hand, as its library raises them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from masactrl.errors import ModelNotFound
from masactrl.models import hub, load_pipeline

RESPONSE = httpx2.Response(404, request=httpx2.Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (RepositoryNotFoundError("no", response=RESPONSE), "no public Hub repository owner/name"),
        (HFValidationError("no"), "no public Hub repository owner/name"),
        (GatedRepoError("no", response=RESPONSE), "asks for consent"),
        (RevisionNotFoundError("no", response=RESPONSE), "has no revision 'old'"),
        (EntryNotFoundError("no"), r"has no model_index\.json"),
        (LocalEntryNotFoundError("no"), "the Hub cannot be reached"),
        (OfflineModeIsEnabled("no"), "the Hub cannot be reached"),
        (HfHubHTTPError("busy", response=RESPONSE), "could not be read: .*busy"),
        (OSError("disk full"), "could not be read: disk full"),
    ],
)
def test_every_answer_becomes_a_sentence(
    answer: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*args: object, **kwargs: object) -> str:
        raise answer

    monkeypatch.setattr(hub, "hf_hub_download", ask)
    with pytest.raises(ModelNotFound, match=sentence):
        load_pipeline("owner/name", revision="old")


def test_without_connection_and_cache_the_sentence_says_so() -> None:
    with pytest.raises(ModelNotFound, match="neither a local folder nor in the Hub's cache"):
        load_pipeline("nobody/nothing-at-all")


def test_without_a_connection_the_files_are_those_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unet").mkdir()
    for name in ("model_index.json", "unet/config.json"):
        (tmp_path / name).touch()

    class Lost:
        def list_repo_files(self, *args: object, **kwargs: object) -> list[str]:
            raise httpx2.ConnectError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", lambda *args, **_: str(tmp_path / args[1]))
    monkeypatch.setattr(hub, "HfApi", Lost)
    assert hub.repository_files("owner/name", None) == ["unet/config.json"]


def test_a_repository_of_another_kind_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "model_index.json"
    index.write_text('{"_class_name": "PixArtAlphaPipeline"}')
    monkeypatch.setattr(hub, "hf_hub_download", lambda *args, **kwargs: str(index))
    with pytest.raises(Exception, match="owner/name is a PixArtAlphaPipeline"):
        load_pipeline("owner/name")
