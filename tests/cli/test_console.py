from __future__ import annotations

import io
import re

import pytest
from diffusers.utils import logging as of_diffusers
from rich.console import Console
from transformers.utils import logging as of_transformers

from masactrl.cli.console import progress, quiet_libraries
from masactrl.runs.generate import StepRecord

RECORD = StepRecord(step=0, steps=2, timestep=501.0)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100)
    with progress(console, "Denoising", 2) as on_step:
        on_step(RECORD)
        on_step(RECORD)
    assert ("Denoising" in written.getvalue()) is terminal
    assert ("2/2 steps" in written.getvalue()) is terminal
    left = re.search(r"[-\d]:[-\d]{2}:[-\d]{2}", written.getvalue())
    assert (left is not None) is terminal, "the time left"


def test_libraries_are_quiet_for_a_while_only() -> None:
    libraries = (of_diffusers, of_transformers)

    def state() -> list[tuple[int, bool]]:
        return [(one.get_verbosity(), one.is_progress_bar_enabled()) for one in libraries]

    def fail_in_quiet() -> None:
        with quiet_libraries():
            assert all(not bars for _, bars in state())
            raise KeyError

    before = state()
    with pytest.raises(KeyError):
        fail_in_quiet()
    assert state() == before
