"""Stamps of a folder's files, which show if it changed.

Stamps are inodes, sizes and times; nobody can set a ctime.
"""

from __future__ import annotations

import os
from pathlib import Path

Stamps = dict[str, tuple[int, ...]]


def read_stamps(folder: Path) -> Stamps:
    """Return the stamp of each path in a folder.

    A stamp is device, inode, mode, size, mtime and ctime; the folder itself is ".". A swap that is undone within one
    tick of the kernel's clock, a few milliseconds, is not seen. Raises OSError.
    """
    found = {".": _make_stamp(folder.stat())}
    for place, folders, names in os.walk(folder, onerror=_raise_error):
        paths = [Path(place, name) for name in (*folders, *names)]
        found |= {str(path.relative_to(folder)): _make_stamp(path.lstat()) for path in paths}
    return found


def find_change(before: Stamps, now: Stamps) -> str:
    """Return the path of something that changed, or an empty text."""
    paths = sorted(before.keys() | now.keys(), key=lambda path: (path == ".", path))
    return next((path for path in paths if before.get(path) != now.get(path)), "")


def _make_stamp(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _raise_error(error: OSError) -> None:
    raise error
