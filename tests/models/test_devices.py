from __future__ import annotations

import pytest
import torch

from masactrl.errors import ConfigError
from masactrl.models import choose_device, choose_dtype


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest(
    cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(chosen)


def test_a_named_device_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "mps", "meta"):
        with pytest.raises(ConfigError, match=f"no device '{name}'; it has: cpu, cuda:0, cuda:1"):
            choose_device(name)
    with pytest.raises(ConfigError, match="'toaster' is no device"):
        choose_device("toaster")


def test_precision_follows_the_device() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("auto", cuda) is torch.float16
    assert choose_dtype("bfloat16", cpu) is torch.bfloat16
    with pytest.raises(ConfigError, match="float16 does not run on the CPU"):
        choose_dtype("float16", cpu)
    with pytest.raises(ConfigError, match="accepted are: auto, float32, float16, bfloat16"):
        choose_dtype("fp8", cpu)
