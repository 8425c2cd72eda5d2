"""What the tests of the command line share: commands that find their model loaded already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from masactrl import models

if TYPE_CHECKING:
    from masactrl.models import LoadedModel

Loaded = dict[tuple[str, str], "LoadedModel"]


@pytest.fixture(scope="session")
def _kept() -> Loaded:
    return {}


@pytest.fixture
def loaded_once(_kept: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands share the models that they only read; one with LoRAs is loaded every time.

    Runs leave a model as they found it, which other tests prove.
    """
    load = models.load_pipeline

    def remembered(model: Any = "puppets", **options: Any) -> LoadedModel:
        if options.get("loras") or options.get("offload", "none") != "none":
            return load(model, **options)
        key = str(model), repr(sorted(options.items()))
        if key not in _kept:
            _kept[key] = load(model, **options)
        return _kept[key]

    monkeypatch.setattr(models, "load_pipeline", remembered)
