"""The command line's threads sleep while they wait, unless somebody said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = """
import os, sys
from masactrl.cli import main
main(["--version"])
print("torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "False None 10000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "False ACTIVE None"),
        ({"GOMP_SPINCOUNT": "100"}, "False None 100"),
    ],
)
def test_threads_sleep_unless_the_user_has_set_it(given: dict[str, str], told: str) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    left = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-c", ASK], env=left | given, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == told
