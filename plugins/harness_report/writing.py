"""Where pages are written, and which earlier run one is compared with."""

from __future__ import annotations

from pathlib import Path

from harness import UsageError, write_text
from harness_report.page import FILE, render
from harness_report.reading import Kept, read_folder


def write_page(folder: Path) -> Path:
    """Write the page of a run into its folder. Raises UsageError where there is no run, OSError on a full disk."""
    kept = read_folder(folder)
    path = kept.folder / FILE
    write_text(path, render(kept, before(kept)))
    return path


def before(kept: Kept) -> Kept | None:
    """Return the last earlier run of the suite beside a run's folder, or None."""
    own = kept.folder.resolve()
    names = sorted(own.parent.glob(f"{kept.run.suite}-*T*Z*/report.json"), key=lambda p: p.parent.name, reverse=True)
    for path in names:
        if path.parent.name >= own.name:
            continue
        try:
            earlier = read_folder(path.parent)
        except UsageError:
            continue
        if earlier.run.suite == kept.run.suite and earlier.lock:
            return earlier
    return None
