"""One tiny model and one session per inversion for all tests of edits: each takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
from editing_parts import loaded, random_picture

from masactrl.runs.invert import InversionRequest, invert

if TYPE_CHECKING:
    from editing_parts import Inverted

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    return loaded(tiny_models.sd())


@pytest.fixture(scope="session")
def inverted(model: LoadedModel) -> Inverted:
    made: dict[InversionRequest, EditSession] = {}

    def of(**options: Any) -> EditSession:
        asked = InversionRequest(**options)
        if asked not in made:
            made[asked] = invert(model, random_picture(), asked)
        return made[asked]

    return of


@pytest.fixture
def session(inverted: Inverted) -> EditSession:
    """The picture with the default inversion, without recorded features."""
    found = inverted()
    found.forget()
    return found
