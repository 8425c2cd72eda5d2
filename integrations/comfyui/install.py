"""Called by node managers: brings the library alone, and moves no package of the host."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("masactrl") is None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "masactrl"],
        check=True,
    )
