"""`python -m masactrl`, the same as the command `masactrl`."""

import sys

from masactrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
