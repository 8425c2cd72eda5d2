"""Threads that soon sleep while they wait, in programs of ours; set before torch is imported.

GNU OpenMP's threads spin while they wait for each other. Where another program uses a core, the one
that spins takes it from the one that computes: a run of 8 s took 115 s with one of two cores busy.
"""

from __future__ import annotations

import os
import sys

__all__ = ["wait_asleep"]

# Rounds that a thread spins before it sleeps. A run of 13.5 s with torch's own on two cores took
# 13.7 s with these and 14.9 s with none; with one core busy 30 s and 22.6 s, with ten times as many
# 72 s.
_WAITING = {"GOMP_SPINCOUNT": "10000"}


def wait_asleep() -> None:
    """Let OpenMP's threads soon sleep in this process and those it starts.

    What the user has set stays, and so does a process in which torch is loaded already. For the
    command line and the studio alone: a library leaves its program's threads to the program.
    """
    if "torch" not in sys.modules and not {*_WAITING, "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ.update(_WAITING)
