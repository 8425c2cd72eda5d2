"""Runs do not depend on what a program has set for all of torch.

A program that computes in float64, or keeps a language model in bfloat16, sets torch's default type
or device for the whole process; noise, masks and networks' tables would come out otherwise.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["torch_defaults"]


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Let torch's defaults be float32 and the CPU inside; also a decorator: ``@torch_defaults()``.

    Where they are that already nothing is touched. Otherwise they are put back, also after an
    exception; the type is the process's, so other threads see float32 meanwhile.
    """
    import torch

    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype is not torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
