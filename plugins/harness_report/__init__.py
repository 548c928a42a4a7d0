"""HTML pages of a run, a comparison, and a suite's history.

The plugin only observes runs, and decides nothing.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from harness import Run, hookimpl
from harness.internals import printable

__all__ = [
    "comparison",
    "configuration",
    "formatting",
    "gates",
    "history",
    "page",
    "reading",
]  # modules that harness_view shows runs by


def can_render() -> bool:
    """Return whether pages can be written here."""
    return find_spec("jinja2") is not None


@hookimpl(tryfirst=True)
def harness_run_finish(run: Run) -> None:
    """Write report.html into the run folder.

    This happens before the terminal names the page. An error becomes a warning.
    """
    if not run.folder or not can_render():
        return
    from harness_report.page import write_page

    try:
        write_page(Path(run.folder))
    except Exception as error:  # whatever it is, the run is decided and written
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        print(printable(f"warning: {run.folder}/report.html: was not written: {why}"), file=sys.stderr)
