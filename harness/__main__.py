"""`python -m harness` is the command `harness`, with the Python that runs it."""

import sys

from harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
