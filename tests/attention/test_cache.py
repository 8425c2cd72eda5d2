from __future__ import annotations

import pytest
import torch

from masactrl.attention import SourceFeatures
from masactrl.errors import ConfigError


def filled(**options: object) -> SourceFeatures:
    cache = SourceFeatures(**options)  # type: ignore[arg-type]
    cache.put(2, 901.0, 10, torch.arange(24.0).reshape(4, 3, 2), images=2)
    return cache


def test_what_goes_in_comes_out_by_branch_and_image() -> None:
    hidden = filled().get(2, 901.0, 10)
    assert hidden.shape == (2, 2, 3, 2)
    assert torch.equal(hidden.flatten(0, 1), torch.arange(24.0).reshape(4, 3, 2))


def test_it_keeps_a_copy() -> None:
    cache, hidden = SourceFeatures(), torch.ones(1, 3, 2)
    cache.put(0, 1.0, 0, hidden, images=1)
    hidden.zero_()
    assert bool(cache.get(0, 1.0, 0).all())


def test_half_precision_halves_the_memory() -> None:
    assert filled(dtype=torch.float16).nbytes * 2 == filled().nbytes == 24 * 4
    assert filled(dtype=torch.float16, device="cpu").get(2, 901.0, 10).dtype == torch.float16


def test_clear() -> None:
    cache = filled()
    assert len(cache) == 1
    assert cache.timesteps == {2: 901.0}
    cache.clear()
    assert len(cache) == 0
    assert cache.nbytes == 0


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: SourceFeatures().get(0, 1.0, 0), "empty"),
        (lambda: filled().get(3, 881.0, 10), "Step 3 was not recorded.*2 to 2"),
        (lambda: filled().get(2, 881.0, 10), "timestep 901 but this run is at 881"),
        (lambda: filled().get(2, 901.0, 11), r"Layer 11 was not recorded.*\[10\]"),
        (lambda: filled().get_map(2, 901.0, 4), "maps of layer 4 were not recorded"),
    ],
)
def test_missing_features_are_sentences(read: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read()  # type: ignore[operator]
    assert str(caught.value).endswith(".")
