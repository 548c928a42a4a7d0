"""The door to folders that others made: run folders, exports, published folders and bundles of rows.

What lies in such a folder is data. A file is opened below the folder's descriptor and through no link, a record is
strict JSON of bounded size and depth, and a list of entries is complete: what is neither a plain file, a folder nor a
link of the Hub's download cache to one of its blobs is refused. Nothing here returns a module, a program, a variable's
name or an address to be used.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from harness.artifacts.attestation import CARD, EVIDENCE, MANIFEST, MODEL, UNLISTED
from harness.artifacts.shapes import require_shape
from harness.errors import UsageError
from harness.files import close_folder, open_file, open_folder
from harness.texts.escaping import escape_controls
from harness.texts.json_text import read_json

MAX_RECORD_BYTES = 1 << 26  # of a record that is read as a whole
MAX_LINE_BYTES = 1 << 26  # of a record that is one line of many
MAX_INTEGER = 10**19  # which no count, seed or time reaches
MAX_DEPTH = 64  # lists and objects inside of each other
MAX_FOLDERS = 32  # folders inside of each other
MAX_ENTRIES = 1 << 20  # files and folders below a folder
BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # a git or a sha256 digest
RESULTS = ".eval_results"  # the folder that the Hub reads results from
# of a repository on the Hub, and not of the model in it
HUB_FILES = (".gitattributes", ".git", ".cache", RESULTS, CARD, EVIDENCE)
MISSING = (errno.ENOENT, errno.ENOTDIR)
MALFORMED_RECORD = (ValueError, RecursionError, MemoryError)


class FolderError(UsageError, ValueError):
    """An entry of a folder that somebody else made cannot be read.

    `problem` is the message without the folder; `missing` is true of a file that is not there.
    """

    def __init__(self, folder: Path, problem: str, *, missing: bool = False) -> None:
        super().__init__(f"{folder}: {problem}")
        self.problem, self.missing = escape_controls(problem), missing


class ForeignFolder:
    """A folder that somebody else made, read-only.

    Names are relative to it, with slashes. Links in the folder's own path, which the user named, are followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read it once. Raises FolderError at anything but a plain file or a link to a Hub blob."""
        if not name or PurePosixPath(name).is_absolute() or Path(name).is_absolute():
            raise FolderError(self.path, f'"{name}" is not the name of a file in it')
        try:
            blob = self._find_blob(name)
            return open_file(
                self.path / name if blob is None else blob, below=self.path if blob is None else blob.parent
            )
        except OSError as error:
            missing = error.errno in MISSING
            raise FolderError(self.path, f'"{name}" {_describe_open_error(error)}', missing=missing) from None

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name that `open` opens."""
        try:
            self.open(name).close()
        except FolderError:
            return False
        return True

    def read(self, name: str, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
        """Return the content of a file. Raises FolderError as `open` does, and if it is larger than `max_bytes`."""
        with self.open(name) as file:
            try:
                return _read_bounded(file, max_bytes)
            except OSError as error:
                raise FolderError(self.path, f'"{name}" {_describe_open_error(error)}') from None

    def read_record(self, name: str, shape: Any = object, max_bytes: int = MAX_RECORD_BYTES) -> Any:
        """Return the JSON of a file.

        Raises FolderError as `read` does, at malformed or deeply nested JSON, and at another shape (`shapes`).
        """
        content = self.read(name, max_bytes)
        try:
            record = parse_record(content)
            require_shape(record, shape)
            return record
        except MALFORMED_RECORD as error:
            raise FolderError(self.path, f'"{name}" is malformed: {_describe_malformed(error)}') from None

    def iterate_lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a file. Raises FolderError as `open` does, and at a line above MAX_LINE_BYTES."""
        with self.open(name) as file:
            for number in itertools.count(1):
                if not (line := file.readline(MAX_LINE_BYTES + 1)):
                    return
                if len(line) > MAX_LINE_BYTES:
                    raise FolderError(self.path, f'"{name}" line {number:,} is larger than {MAX_LINE_BYTES >> 20} MB')
                yield line

    def iterate_records(self, name: str) -> Iterator[Any]:
        """Yield the JSON of each line of a file.

        Raises FolderError as `iterate_lines` does, and with the line's number as `read_record` does.
        """
        for number, line in enumerate(self.iterate_lines(name), 1):
            try:
                yield parse_record(line)
            except MALFORMED_RECORD as error:
                where = f'"{name}" line {number:,}'
                raise FolderError(self.path, f"{where} is malformed: {_describe_malformed(error)}") from None

    def list_files(self, below: str = "", *, skipped: Collection[str] = ()) -> dict[str, int]:
        """Return the size in bytes of every file, by its name, sorted.

        With `below` only files of that folder are listed, with names relative to it. Entries directly in it that are
        named in `skipped` are left out, and folders of these names are not entered. Raises FolderError at an entry
        that is neither a plain file, a folder nor a link to a Hub blob, and at an empty folder.
        """
        start = tuple(below.split("/")) if below else ()
        files: dict[str, int] = {}
        pending, count = [start], 0
        while pending:
            parts = pending.pop()
            entries = self._scan(parts)
            if not entries:
                raise FolderError(self.path, f'"{"/".join(parts) or self.path}" is an empty folder')
            if (count := count + len(entries)) > MAX_ENTRIES or len(parts) > MAX_FOLDERS:
                limits = f"{MAX_ENTRIES:,} entries, or nests folders deeper than {MAX_FOLDERS}"
                raise FolderError(self.path, f"has more than {limits}")
            for entry in entries:
                name = "/".join((*parts[len(start) :], entry.name))
                left_out = parts == start and entry.name in skipped
                if stat.S_ISDIR(entry.mode):
                    pending += [] if left_out else [(*parts, entry.name)]
                    continue
                size = entry.size
                if not stat.S_ISREG(entry.mode):
                    size = self._size_of_blob("/".join((*parts, entry.name)), entry.mode)
                if not left_out:
                    files[name] = size
        return dict(sorted(files.items()))

    def place_file(self, name: str, to: Path) -> None:
        """Hard-link a file to a path, or copy it where the file systems cannot. Raises FolderError as `open` does."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.open(name) as file, suppress(OSError):
            os.link(self._find_blob(name) or self.path / name, to)
            if os.path.samestat(to.lstat(), os.fstat(file.fileno())):
                return
            to.unlink()  # the name leads to another file by now
        self.copy_file(name, to)

    def copy_file(self, name: str, to: Path) -> None:
        """Copy a file to a path. Raises FolderError as `open` does."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.open(name) as file, to.open("wb") as copy:
            shutil.copyfileobj(file, copy)

    def _scan(self, parts: tuple[str, ...]) -> list[_Entry]:
        """Return the entries of a folder below this one."""
        try:
            handle = open_folder(self.path, parts)
            try:
                with os.scandir(self.path.joinpath(*parts) if handle is None else handle) as entries:
                    found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            finally:
                close_folder(handle)
        except OSError as error:
            raise FolderError(self.path, f'"{"/".join(parts) or self.path}" {_describe_open_error(error)}') from None
        return sorted(_Entry(name, about.st_mode, about.st_size) for name, about in found)

    def _size_of_blob(self, name: str, mode: int) -> int:
        """Return the size of the Hub blob that a link leads to. Raises FolderError at any other link or entry."""
        with suppress(OSError):
            if (blob := self._find_blob(name)) is not None:
                about = blob.lstat()
                if stat.S_ISREG(about.st_mode):
                    return about.st_size
        raise FolderError(self.path, f'"{name}" is {"a link" if stat.S_ISLNK(mode) else "not a file"}')

    @cached_property
    def _hub_snapshot(self) -> Path | None:
        """The folder without links in its path, if it is a snapshot in the Hub's cache."""
        folder = self.path.resolve()
        return folder if folder.parent.name == "snapshots" else None

    def _find_blob(self, name: str) -> Path | None:
        """Return the blob of the Hub's cache that a link leads to, None if it leads anywhere else.

        The cache has `snapshots/REVISION/NAME`, links to `blobs/DIGEST` beside `snapshots`.
        """
        if (snapshot := self._hub_snapshot) is None or not snapshot.joinpath(name).is_symlink():
            return None
        blobs, link = snapshot.parent.with_name("blobs"), snapshot.joinpath(*name.split("/"))
        try:
            close_folder(open_folder(snapshot, name.split("/")[:-1]))  # no part of the way to the link is a link
            target = Path(os.path.normpath(link.parent / link.readlink()))
        except OSError:
            return None
        known = target.parent == blobs and BLOB_NAME.fullmatch(target.name) and not blobs.is_symlink()
        return target if known else None


def read_named_file(path: Path, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """Return the content of a file that the user named, which may be a link. Raises FolderError as `read` does."""
    try:
        with open_file(path, follow=True) as file:
            return _read_bounded(file, max_bytes)
    except OSError as error:
        raise FolderError(path.parent, f'"{path.name}" {_describe_open_error(error)}') from None


def _read_bounded(file: IO[bytes], max_bytes: int) -> bytes:
    """Return the rest of a file. Raises OSError if that is more than `max_bytes`."""
    if os.fstat(file.fileno()).st_size <= max_bytes:
        content = file.read(max_bytes + 1)
        if len(content) <= max_bytes:
            return content
    raise OSError(errno.EFBIG, f"it has more than {max_bytes >> 20} MB")


def is_plain_path(name: str) -> bool:
    """Return whether a record's path is relative and leads out of no folder."""
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def list_files(folder: Path) -> dict[str, int]:
    """Return the size of every file in a folder by its name. Raises FolderError as `ForeignFolder.list_files` does."""
    return ForeignFolder(folder).list_files()


@contextmanager
def restore_export(folder: Path) -> Iterator[Path]:
    """Yield an export as it was gated: the folder itself, or one made of a published folder's files for a while.

    Raises FolderError where a published folder holds an entry that `list_files` refuses, or that its manifest does not
    list.
    """
    published = ForeignFolder(folder)
    if os.path.lexists(folder / MODEL) or not published.has(f"{EVIDENCE}/{CARD}"):
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=_find_writable_parent(folder), prefix=".harness-verify-") as made:
        export = Path(made)
        for name, restored in _list_restored_names(published).items():
            published.place_file(name, export / restored)
        yield export


def _list_restored_names(published: ForeignFolder) -> dict[str, str]:
    """Return the name in the export of every file of a published folder.

    Raises FolderError at a file that the manifest does not list, before any is linked or copied.
    """
    names = {name: f"{MODEL}/{name}" for name in published.list_files(skipped=HUB_FILES)}
    for name in published.list_files(EVIDENCE):
        names[f"{EVIDENCE}/{name}"] = CARD if name == CARD else f"{EVIDENCE}/{name}"
    manifest = published.read_record(f"{EVIDENCE}/{MANIFEST}", {"files": dict})
    known = {*manifest["files"], *UNLISTED}
    for name, restored in names.items():
        if restored not in known:
            raise FolderError(published.path, f'"{name}" is not in the manifest')
    return names


def _find_writable_parent(folder: Path) -> Path | None:
    """Return the folder's parent if it is writable, for hard links.

    None selects the usual folder of temporary files.
    """
    parent = folder.resolve().parent
    return parent if os.access(parent, os.W_OK) else None


class _Entry(NamedTuple):
    name: str
    mode: int
    size: int


def parse_record(text: bytes) -> Any:
    """Parse a record: strict JSON with finite numbers.

    Raises ValueError if it is malformed or nested deeper than MAX_DEPTH.
    """
    record = read_json(text)
    _require_bounded(record)
    return record


def _require_bounded(record: Any) -> None:
    """Raise ValueError at nesting deeper than MAX_DEPTH, and at a number that is huge or not finite."""
    level, depth = [record], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):  # as 1e999, which JSON allows
                raise ValueError("it holds a number that is not finite")
            elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
                raise ValueError(f"it holds a number of {len(str(value))} digits")
        level, depth = inner, depth + 1


def _describe_open_error(error: OSError) -> str:
    """Return what is wrong with an entry that cannot be read, to follow its name."""
    if error.errno in MISSING:
        return "is missing"
    if error.errno == errno.ELOOP:
        return "is a link"
    if error.errno in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
        return "is not a file"
    return f"cannot be read: {error.strerror or error}"


def _describe_malformed(error: BaseException) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
