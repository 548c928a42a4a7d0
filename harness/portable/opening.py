"""How files are opened: regular ones alone, and through no link below a folder of ours."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

CAN_OPEN_RELATIVE = {
    os.open,
    os.mkdir,
    os.unlink,
} <= os.supports_dir_fd  # whether files open below an open folder: not on Windows
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
BINARY = getattr(os, "O_BINARY", 0)  # else Windows writes two bytes for the end of a line


def open_file(path: Path, *, follow: bool = False, below: Path | None = None) -> IO[bytes]:
    """Open a regular file for reading it once.

    Raises OSError for any other kind of file, without blocking on it. Unless `follow` is set, the file may not be a
    link; with `below`, a folder that the path begins with, neither may any part of the path behind it.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | BINARY
    handle = os.open(path, flags) if follow else _open_below_without_links(below or path.parent, path, flags)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, f"{path} is not a file", str(path))
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def open_for_writing(path: Path, flags: int, *, below: Path | None = None) -> int:
    """Open a file for writing, creating it if needed.

    Returns the handle. Raises OSError if the file is a link, or with `below` if any part of the path behind it is one.
    Links in /dev and /proc, such as /dev/stderr, are followed.
    """
    if below is None and path.parts[:2] in (("/", "dev"), ("/", "proc")):
        return os.open(path, flags)
    return _open_below_without_links(below or path.parent, path, flags | os.O_CREAT | BINARY)


def _open_below_without_links(folder: Path, path: Path, flags: int) -> int:
    """Open a path below a folder without following links.

    Links in the folder's own path are followed. Raises OSError.
    """
    *folders, name = path.relative_to(folder).parts or ("",)
    at = open_folder(folder, folders)
    try:
        if at is None and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return os.open(path if at is None else name, flags | NO_LINK, 0o666, dir_fd=at)
    except ValueError:  # a NUL
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from None
    except OSError as error:
        raise _make_path_error(error, path) from None
    finally:
        close_folder(at)


def close_folder(at: int | None) -> None:
    """Close a handle from `open_folder`."""
    if at is not None:
        os.close(at)


def open_folder(folder: Path, parts: Sequence[str], *, make: bool = False) -> int | None:
    """Open a folder below another without following links.

    Links in the other's own path are followed. Raises OSError. None on Windows, which cannot open folders; there, the
    path is checked for links instead.
    """
    if not CAN_OPEN_RELATIVE:
        _require_folder_without_links(folder, parts, make=make)
        return None
    at, place = os.open(folder, FOLDER), folder
    for part in parts:
        place = place / part
        try:
            if part == "..":
                raise OSError(errno.EINVAL, "leads out of its folder")
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
            inner = os.open(part, FOLDER | NO_LINK, dir_fd=at)
        except ValueError:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(place)) from None
        except OSError as error:
            raise _make_path_error(error, place) from None
        finally:
            os.close(at)
        at = inner
    return at


def _require_folder_without_links(folder: Path, parts: Sequence[str], *, make: bool) -> None:
    """Raise OSError if a folder is missing or lies behind a link."""
    place = folder
    for part in parts:
        place = place / part
        if part == "..":
            raise OSError(errno.EINVAL, "leads out of its folder", str(place))
        if make:
            place.mkdir(exist_ok=True)
        if place.is_symlink() or not place.resolve().is_relative_to(folder.resolve()):  # a junction of Windows
            raise OSError(errno.ELOOP, "it is a link", str(place))
    if not place.is_dir():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))


def _make_path_error(error: OSError, path: Path) -> OSError:
    """Return an OSError with the path, reporting links as such."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
        return OSError(errno.ELOOP, "it is a link", str(path))
    return OSError(error.errno, error.strerror or str(error), str(path))
