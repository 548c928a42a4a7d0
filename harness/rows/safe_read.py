"""Bounded, strict reading of files from other tools.

A file is read once, whole or not at all; an invalid one is refused with the place of its error.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any

from harness.data import tables
from harness.errors import UsageError, missing_modules_message
from harness.files import open_file
from harness.rows.wording import write_option
from harness.texts.escaping import printable, shorten_text
from harness.texts.json_text import read_json

MAX_TEXT_BYTES = 1 << 30  # bytes of a file that is read as one text
MAX_STREAM_BYTES = 1 << 36  # of one that is read line by line
MAX_LINE_BYTES = 1 << 26  # of a line
MAX_MEMBER_BYTES = 1 << 28  # of a member of a zip, inflated
MAX_MEMBERS = 1 << 20  # members of a zip
LINK, ZSTD = 0xA, 93  # a member that is a link, by its mode; how it is packed
BOM = b"\xef\xbb\xbf"
HEAD_BYTES = 1 << 16  # bytes by which a file is known
MAGIC_BYTES = 8  # bytes by which a compressed one is
MAX_MESSAGE_CHARS = 200  # characters of what a tool says of an error
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class SafeFiles:
    """The files that one run is read from.

    `sources` are their paths as given, sha256 and sizes. Files in `below`, a folder that the harness wrote, are opened
    through no link.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.below: Path | None = None
        self._read: dict[str, tuple[str, int]] = {}
        self.contents: dict[str, str] = {}  # sha256 of what was read, decompressed, by path

    @property
    def sources(self) -> tuple[tuple[str, str, int], ...]:
        """The path, sha256 and size of each file read so far."""
        return tuple((name, *told) for name, told in sorted(self._read.items()))

    def list_files(self, pattern: str) -> list[Path]:
        """Return files of a folder by a pattern, sorted. Raises UsageError at one that lies elsewhere, by a link."""
        inside, found = self.root.resolve(), sorted(self.root.glob(pattern))
        for path in found:
            if not path.resolve().is_relative_to(inside):
                raise UsageError(f"{path}: is a link that leads out of {self.root}; copy the file there")
        return [path for path in found if path.is_file()]

    def read_bytes(self, path: Path) -> bytes:
        """Return the content of a file, decompressed.

        Raises UsageError where it cannot be read, is too large, or is being written.
        """
        with _open_bounded(path, MAX_TEXT_BYTES, self.below) as f:
            data = f.read()
            self._record_digest_if_unchanged(path, f, hashlib.sha256(data).hexdigest(), len(data))
        content = tables.decompress(data, f"{path}", MAX_TEXT_BYTES)
        if content is not data:
            self.contents[str(path)] = hashlib.sha256(content).hexdigest()
        return content

    @contextmanager
    def open_content(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a file's decompressed content, for one read to its end.

        Raises UsageError as `read_bytes` does.
        """
        with _open_bounded(path, MAX_STREAM_BYTES, self.below) as f:
            packed = tables.is_compressed(f.read(MAGIC_BYTES))
            f.seek(0)
            hashed = _HashedReader(f)
            yield io.BytesIO(self.read_bytes(path)) if packed else io.BufferedReader(hashed, HEAD_BYTES)
            if not packed:
                self._record_digest_if_unchanged(path, f, hashed.digest.hexdigest(), hashed.size)

    def read_json(self, path: Path, *, constants: bool = False) -> Any:
        """Return the JSON that a file is. Raises UsageError, also at keys that stand twice, and at NaN unless told."""
        return parse_json(self.read_bytes(path).removeprefix(BOM), f"{path}", constants=constants)

    def read_json_lines(self, path: Path, *, constants: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the objects of JSON lines with their numbers, from 1. Raises UsageError at one that cannot be read."""
        digest, size = hashlib.sha256(), 0
        with _open_bounded(path, MAX_STREAM_BYTES, self.below) as f:
            packed = tables.is_compressed(f.read(MAGIC_BYTES))
            f.seek(0)
            source = io.BytesIO(self.read_bytes(path)) if packed else f
            for number, line in enumerate(iter(partial(source.readline, MAX_LINE_BYTES + 1), b""), 1):
                if not packed:
                    digest.update(line)
                    size += len(line)
                if len(line) > MAX_LINE_BYTES:
                    what = f"has more than {MAX_LINE_BYTES:,} bytes; check that it is a file of JSON lines"
                    raise UsageError(f"{path} line {number:,}: {what}")
                text = line.removeprefix(BOM) if number == 1 else line
                if not text.isspace() and text:
                    where = f"{path} line {number:,}"
                    row = parse_json(text, where, "; lines are never skipped", constants=constants)
                    if not isinstance(row, dict):
                        raise UsageError(f"{where}: is not an object; correct it, since lines are never skipped")
                    yield number, row
            if not packed:
                self._record_digest_if_unchanged(path, f, digest.hexdigest(), size)

    def read_zip(self, path: Path) -> dict[str, Callable[[], bytes]]:
        """Return a reader of each member of a zip, by name.

        Raises UsageError if the zip is incomplete, or a name leads out of it or occurs twice.
        """
        data = self.read_bytes(path)
        try:
            infos = zipfile.ZipFile(io.BytesIO(data)).infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise UsageError(
                f"{path}: is not a complete zip file: {error}; wait if it is still being written"
            ) from None
        found: dict[str, Callable[[], bytes]] = {
            info.filename: partial(_inflate_zip_member, data, info, path) for info in infos
        }
        odd = [n for n in found if n.startswith("/") or ".." in n.split("/")]
        odd += [info.filename for info in infos if info.external_attr >> 28 == LINK]
        if odd or len(found) < len(infos) or len(infos) > MAX_MEMBERS:
            out = f'has a member "{shorten_text(odd[0], 80)}" that leads out of it' if odd else ""
            raise UsageError(f"{path}: {out or 'has members with the same name, or too many'}")
        return found

    def _record_digest_if_unchanged(self, path: Path, f: IO[bytes], digest: str, size: int) -> None:
        """Record a file's digest and size.

        Raises UsageError if the file changed meanwhile.
        """
        there, told = os.fstat(f.fileno()), self._read.get(str(path))
        if there.st_size != size or (told and told != (digest, size)):
            raise UsageError(f"{path}: is still being written; wait until its run has ended")
        self._read[str(path)] = digest, size


class _HashedReader(io.RawIOBase):
    """A raw reader that hashes the bytes it reads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def read_head(path: Path, below: Path | None = None) -> bytes:
    """Return the decompressed first bytes of a file, which with `below` is opened through no link in that folder.

    Empty for a folder. Raises UsageError if there is neither.
    """
    if path.is_dir():
        return b""
    with _open_bounded(path, MAX_STREAM_BYTES, below) as f:
        return tables.decompress_start(f.read(HEAD_BYTES), f"{path}")


def parse_json(text: bytes | str, where: str, hint: str = "", *, constants: bool = False) -> Any:
    """Return strict JSON, NaN and infinities only where told. Raises UsageError with the place and what is wrong."""
    try:
        return read_json(text, constants=constants)
    except RecursionError:
        why = "it is nested too deeply"
    except UnicodeDecodeError as error:
        why = f"it is not UTF-8 at byte {error.start}"
    except ValueError as error:
        why = "a number has thousands of digits" if "digits" in str(error) else shorten_text(str(error), 80)
    raise UsageError(f"{where}: cannot be read{hint} ({why})")


def parse_score(value: Any, where: str) -> float | None:
    """Parse a score as a number, None if it is missing.

    Null, empty and NaN are missing. Raises UsageError at anything else.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        if text.lower() in ("", "nan", "null", "none"):
            return None
        value = float(text) if NUMBER.fullmatch(text) and len(text) < 400 else value
    if isinstance(value, (bool, int, float)):
        try:
            return None if value != value else float(value)
        except OverflowError:
            raise UsageError(f"{where}: contains an integer too large for a float; write a score") from None
    if isinstance(value, Decimal):
        return None if value.is_nan() else float(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' values that are none
        return None
    what = shorten_text(repr(value) if not isinstance(value, str) else value, 40)
    missing = f"an empty score is a missing row, which {write_option('missing')} decides about"
    raise UsageError(f'{where}: "{what}" is not a number; {missing}')


def describe_tool_error(error: Any) -> str:
    """Return a tool's error as one line, without secrets.

    Of a table only the message is used; the line is cut at MAX_MESSAGE_CHARS.
    """
    text = error.get("message") or error if isinstance(error, dict) else error
    return shorten_text(printable(" ".join(str(text).split())), MAX_MESSAGE_CHARS - 4)


def _inflate_zip_member(data: bytes, info: zipfile.ZipInfo, path: Path) -> bytes:
    """Return the bytes of a member of a zip. Raises UsageError where they are not those, or too many."""
    where, start = f'{path}: member "{shorten_text(info.filename, 80)}"', info.header_offset
    try:
        start += 30 + sum(struct.unpack("<HH", data[start + 26 : start + 30]))  # its name, and what else is told there
        packed = data[start : start + info.compress_size]
        if info.compress_type == ZSTD:
            found = _decompress_zstd(packed, where)
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            found = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, MAX_MEMBER_BYTES + 1)
        else:
            found = packed
    except (struct.error, zlib.error) as error:
        raise UsageError(f"{where}: cannot be read: {error}") from None
    if len(found) > MAX_MEMBER_BYTES:
        raise UsageError(f"{where}: unpacks to more than {MAX_MEMBER_BYTES:,} bytes")
    if len(found) != info.file_size or zlib.crc32(found) != info.CRC:
        raise UsageError(f"{where}: differs from what its zip says; wait if it is still being written")
    return found


def _decompress_zstd(packed: bytes, where: str) -> bytes:
    try:
        import zstandard
    except ModuleNotFoundError:
        what = f"is compressed with zstd, which {missing_modules_message('zstandard')}"
        raise UsageError(f"{where}: {what}; or inspect log convert --to json") from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            return bytes(stream.read(MAX_MEMBER_BYTES + 1))
    except zstandard.ZstdError as error:
        raise UsageError(f"{where}: cannot be read: {error}") from None


def _open_bounded(path: Path, most: int, below: Path | None = None) -> IO[bytes]:
    try:
        confined = below is not None and path.is_relative_to(below)
        f = open_file(path, below=below) if confined else open_file(path, follow=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: cannot be read: {why}; name a file or a folder of rows") from None
    if (size := os.fstat(f.fileno()).st_size) > most:
        f.close()
        raise UsageError(f"{path}: has {size:,} bytes, but at most {most:,} are read")
    return f
