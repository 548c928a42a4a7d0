"""Answers that were given before, in SQLite: an unchanged request to an unchanged model is not asked again.

A key names everything an answer depends on, so nothing in here is ever stale; what cannot be read, or was changed
by something else than us, is asked again. The cache is a convenience: whatever is wrong with it costs a warning and
time, never a run.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TABLE_VERSION = 1  # of the table, in PRAGMA user_version
PASSING = {  # errors that tell of locks, rights and disks; any other one means that the file is damaged
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_INTERRUPT,
}  # fmt: skip
LOCK_TIMEOUT_S = 5.0  # seconds to wait for another process that writes
WRITE_EVERY = 0.5  # seconds between commits: what a kill can lose, beside the batch in work
MAX_QUERY_KEYS = 500  # keys in one query


class Responses:
    """Remembered answers by key: JSON values, each with a checksum of its own; how many were looked for, and found.

    Any thread may use it.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self._lock = threading.RLock()
        self._waiting: dict[bytes, str] = {}
        self._own: set[bytes] = set()  # keys of what was stored through this object
        self._written = time.monotonic()
        self._damaged = False
        self.asked = self.found = 0
        self._db: sqlite3.Connection | None = None
        self._connect()

    def find(
        self, keys: Iterable[bytes], read: Callable[[Any], Any] = lambda value: value, *, counts: bool = True
    ) -> dict[bytes, Any]:
        """Return the cached values under some keys.

        `read` converts a JSON value and raises ValueError, TypeError or LookupError if it cannot; the file then counts
        as damaged and is replaced. Lookups with `counts` false are left out of the counts.
        """
        with self._lock:
            return self._find_cached_values(list(dict.fromkeys(keys)), read, counts)

    def _find_cached_values(
        self, wanted: Sequence[bytes], read: Callable[[Any], Any], counts: bool
    ) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for start in range(0, len(wanted), MAX_QUERY_KEYS):
            some = wanted[start : start + MAX_QUERY_KEYS]
            marks = ",".join("?" * len(some))
            rows: list[tuple[Any, ...]] = []
            if self._db is not None:
                query = f"SELECT key, value, checksum FROM responses WHERE key IN ({marks})"  # noqa: S608
                try:
                    rows = self._db.execute(query, some).fetchall()
                except Exception as error:
                    self._handle_database_error(error)
            for key, value, checksum in rows:
                try:
                    if not (isinstance(key, bytes) and isinstance(value, str)) or checksum != _compute_checksum(
                        key, value
                    ):
                        raise ValueError("its checksum does not match")
                    found[key] = read(json.loads(value))
                except (ValueError, TypeError, LookupError, RecursionError) as error:
                    self._replace_damaged_file(f"a row of it cannot be read ({error})")
                    break
        if counts:
            self.asked, self.found = self.asked + len(wanted), self.found + len(found)
        return found

    def store(self, key: bytes, value: Any) -> None:
        """Store an answer.

        It is written to disk by the first call more than WRITE_EVERY seconds after the last write, or by `flush`.
        """
        with self._lock:
            self._own.add(key)
            self._waiting[key] = json.dumps(value)  # in ASCII: half a surrogate pair has no other bytes
            if time.monotonic() - self._written > WRITE_EVERY:
                self.flush()

    def is_from_before(self, key: bytes) -> bool:
        """Return whether a remembered answer is of an earlier run, and was not stored through this object."""
        return key not in self._own

    def flush(self) -> None:
        """Write all pending answers."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        rows = [(key, value, _compute_checksum(key, value)) for key, value in self._waiting.items()]
        self._waiting.clear()
        self._written = time.monotonic()
        for _ in range(2 if rows else 0):  # again, into a new file, where the first was found to be damaged
            if self._db is None:
                return
            try:
                with self._db:
                    self._db.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?, ?)", rows)
                return
            except Exception as error:
                self._handle_database_error(error)

    def close(self) -> None:
        """Write all pending answers and close the file."""
        with self._lock:
            self._write()
            self._disconnect()

    def _connect(self) -> None:
        """Open the file and create its table.

        A damaged file is replaced; without a usable file answers are not cached.
        """
        try:
            self._db = db = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S, check_same_thread=False)
            if db.execute("PRAGMA user_version").fetchone()[0] > TABLE_VERSION:
                self._disconnect()
                self._warn(
                    f'cache "{self.path}": was written by a newer version of the harness; answers are not cached'
                )
                return
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last commits, never the file
            table = "responses (key BLOB PRIMARY KEY, value TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID"
            with db:
                db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
                db.execute(f"PRAGMA user_version = {TABLE_VERSION}")
        except Exception as error:
            self._disconnect()
            self._handle_database_error(error)

    def _handle_database_error(self, error: Exception) -> None:
        """Disconnect on a passing error, replace a damaged file, else raise."""
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, sqlite3.ProgrammingError) or not isinstance(error, (sqlite3.Error, ValueError)):
            raise error
        if code is not None and code & 0xFF in PASSING:
            self._disconnect()
            self._warn(f'cache "{self.path}": {error}; answers are not cached from here on')
        else:
            self._replace_damaged_file(" ".join(str(error).split()))

    def _disconnect(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):  # of a file that was damaged meanwhile
                self._db.close()
        self._db = None

    def _replace_damaged_file(self, why: str) -> None:
        """Rename a damaged file, warn, and start a new one.

        The second time, or if it cannot be renamed, go on without a file.
        """
        self._disconnect()
        aside = self.path.with_suffix(f".damaged-{time.time_ns()}")
        try:
            self.path.rename(aside)
            for tail in ("-wal", "-shm"):
                self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
        except OSError as failed:
            self._warn(f'cache "{self.path}": {why}, and it cannot be renamed: {failed.strerror}')
            return
        self._warn(f'cache "{self.path}": {why}; it was renamed to "{aside.name}", and its answers are requested again')
        if not self._damaged:
            self._damaged = True
            self._connect()


def request_key(identity: str, kind: str, *request: Any) -> bytes:
    """Return the key of a request to a model: 32 bytes of sha256."""
    text = json.dumps([identity, kind, *request], ensure_ascii=False, separators=(",", ":"), default=to_json_value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def to_json_value(value: Any) -> Any:
    """Convert a value that JSON cannot encode by itself.

    A mapping becomes a dict; raises TypeError for any other value.
    """
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a request holds a {type(value).__name__}, which cannot be written as JSON")


def _compute_checksum(key: bytes, value: str) -> bytes:
    return hashlib.blake2b(key + value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
