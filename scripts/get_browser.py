"""A browser for the studio's tests, where one can be had; without it they skip. Never fails.

Looks for what is cheapest first: a browser of this machine, playwright's own, and, as root only (a
container, not a person's desk), the distribution's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q"]


def done(seconds: int, *words: str) -> bool:
    """Whether the command succeeded in time."""
    try:
        return (
            subprocess.run(words, timeout=seconds, check=False, capture_output=True).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> str:
    """Try, and say what came of it."""
    if not done(180, *PIP, "-c", "constraints.txt", "-e", ".[browser]"):
        return "The browser tests will skip: playwright cannot be had from the package registry."
    if any(shutil.which(name) for name in NAMES):
        return "The browser tests use the browser of this machine."
    if done(120, sys.executable, "-m", "playwright", "install", "chromium-headless-shell"):
        return "The browser tests use the browser that playwright brought."
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=30")
        if done(60, *apt, "update") and done(
            180, *apt, "install", "-y", "--no-install-recommends", "chromium-headless-shell"
        ):
            return "The browser tests use the browser of this machine's distribution."
    return "The browser tests will skip: no browser could be had."


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    sys.stderr.write(main() + "\n")
