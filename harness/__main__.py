"""`python -m harness` is the command `harness`, with the Python that runs it."""

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # the current folder, of which nothing is imported from here on

from harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
