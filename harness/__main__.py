"""Entry point for `python -m harness`, the `harness` command in this interpreter."""

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # the current folder, of which nothing is imported from here on

from harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
