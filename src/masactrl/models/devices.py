"""The one place that chooses where a network runs and in which precision."""

from __future__ import annotations

import torch

from masactrl.errors import ConfigError

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device that `name` means on this machine.

    Args:
        name: "auto" (CUDA when there is one, then Apple's MPS, then the CPU) or a device as torch
            writes it: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ConfigError: no such device, or not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = _present_devices()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device; this machine has: {present}.") from error
    missing = {
        "cpu": False,
        "cuda": (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if missing.get(device.type, True):
        raise ConfigError(f"this machine has no device {name!r}; it has: {present}.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision that `name` means on the device.

    Args:
        name: "auto" (float16 on CUDA, float32 elsewhere), "float32", "float16" or "bfloat16".
        device: where the network will run.

    Raises:
        ConfigError: no such precision, or the device cannot run a network in it.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        accepted = ", ".join(["auto", *DTYPES])
        raise ConfigError(f"{name!r} is no precision; accepted are: {accepted}.")
    if name == "float16" and device.type == "cpu":
        raise ConfigError("float16 does not run on the CPU; use float32 or bfloat16.")
    return DTYPES[name]


def _present_devices() -> str:
    """Name the devices of this machine in words."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ", ".join(["cpu", *cuda, *mps])
