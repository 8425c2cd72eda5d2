"""No memory left: how devices and libraries say it."""

from __future__ import annotations

__all__ = ["out_of_memory"]

_SAID = (
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # torch on the CPU; the next two are its other systems' words
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",  # cuBLAS and cuDNN
)


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that host or device has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(one in words for one in _SAID)
