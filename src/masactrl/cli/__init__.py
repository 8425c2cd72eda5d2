"""The command line: one file per verb, no algorithm."""

from masactrl.cli.root import main

__all__ = ["main"]
