"""Inverted pictures that are kept, in memory and on the disk up to a limit, same to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from masactrl.batch import sources
from masactrl.batch.sources import Sources
from masactrl.runs.invert import EditRequest, InversionRequest, invert

if TYPE_CHECKING:
    import pytest

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession


def test_what_leaves_memory_is_read_back_from_the_disk(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_IN_MEMORY", 1)
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(3)
    ]
    made: list[int] = []

    def session(kept: Sources, number: int, *, shared: bool = True) -> EditSession:
        def make() -> EditSession:
            made.append(number)
            return invert(model, pictures[number], InversionRequest(steps=2, fit="keep"))

        return kept.session(f"key{number}", model, make, shared=shared)

    kept = Sources(tmp_path / "sources", 10**8)
    request = EditRequest(target_prompts=("a dog",), start_step=1)
    first = session(kept, 0).edit(request).targets[0].controlled.tobytes()
    session(kept, 1, shared=False)
    assert session(kept, 0).edit(request).targets[0].controlled.tobytes() == first
    session(kept, 1)
    assert made == [0, 1, 1]  # 0 came from the disk, 1 was not worth it
    other = Sources(tmp_path / "sources", 10**8)  # another worker
    assert session(other, 0).edit(request).targets[0].controlled.tobytes() == first
    assert made == [0, 1, 1]
    small = Sources(tmp_path / "small", 10)
    for number in range(3):
        session(small, number)
    assert not [*(tmp_path / "small").glob("*")]  # more than the limit
    (path,) = (tmp_path / "sources").glob("key0*")
    path.write_bytes(path.read_bytes()[:100])
    session(Sources(tmp_path / "sources", 10**8), 0)
    assert made[-1] == 0  # damaged: made anew
