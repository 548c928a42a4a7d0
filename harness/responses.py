"""Answers that were given before, in SQLite: an unchanged request to an unchanged model is not asked again.

A key names everything an answer depends on, so nothing in here is ever stale; what cannot be read, or was changed
by something else than us, is asked again. The cache is a convenience: whatever is wrong with it costs a warning and
time, never a run.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

VERSION = 1  # of the table, in PRAGMA user_version
PATIENCE = 5.0  # seconds to wait for another process that writes
WRITE_EVERY = 0.5  # seconds between commits: what a kill can lose, beside the batch in work
MANY = 500  # keys in one query


class Responses:
    """Remembered answers by key: JSON values, each with a checksum of its own."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self._waiting: dict[bytes, str] = {}
        self._written = time.monotonic()
        self._db = self._open()

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Any]:
        """Return what is remembered under some keys."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, Any] = {}
        for start in range(0, len(wanted), MANY):
            some = wanted[start : start + MANY]
            marks = ",".join("?" * len(some))
            rows = self._try(f"SELECT key, value, checksum FROM responses WHERE key IN ({marks})", some)  # noqa: S608
            found.update({key: json.loads(value) for key, value, sum_ in rows if sum_ == _checksum(key, value)})
        return found

    def keep(self, key: bytes, value: Any) -> None:
        """Remember an answer; it is on the disk within half a second of the next one, or after `flush`."""
        text = json.dumps(value, ensure_ascii=False)
        self._waiting[key] = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, as JSON says it
        if time.monotonic() - self._written > WRITE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        rows = [(key, value, _checksum(key, value)) for key, value in self._waiting.items()]
        self._waiting.clear()
        self._written = time.monotonic()
        if self._db is None or not rows:
            return
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection | None:
        try:
            return self._connect()
        except sqlite3.Error as error:
            self._give_up(error)
        if self.path.exists():
            return None
        try:  # a damaged file was set aside
            return self._connect()
        except sqlite3.Error as error:
            self._give_up(error)
            return None

    def _connect(self) -> sqlite3.Connection | None:
        db = sqlite3.connect(self.path, timeout=PATIENCE)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            db.close()
            self._warn(f'cache "{self.path}": is of a newer version of the harness; answers are not remembered')
            return None
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last commits, never the file
        table = "responses (key BLOB PRIMARY KEY, value TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID"
        with db:
            db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        return db

    def _try(self, query: str, values: list[bytes]) -> list[tuple[bytes, str, bytes]]:
        if self._db is None:
            return []
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def _give_up(self, error: sqlite3.Error) -> None:
        """Go on without the file; a damaged one is set aside, so that the next run starts a new one."""
        if getattr(self, "_db", None) is not None:
            self._db.close()  # type: ignore[union-attr]
        self._db = None
        if type(error) is not sqlite3.DatabaseError:  # its subclasses tell of locks, full disks and rights
            self._warn(f'cache "{self.path}": {error}; answers are not remembered from here on')
            return
        aside = self.path.with_suffix(f".damaged-{time.time_ns()}")
        try:
            self.path.rename(aside)
            for tail in ("-wal", "-shm"):
                self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
        except OSError as failed:
            self._warn(f'cache "{self.path}": {error}, and cannot be set aside: {failed.strerror}')
            return
        self._warn(f'cache "{self.path}": {error}; it is set aside as "{aside.name}", and its answers are asked again')


def request_key(identity: str, kind: str, *request: Any) -> bytes:
    """Name a request to a model: 32 bytes of sha256."""
    text = json.dumps([identity, kind, *request], ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a request holds {type(value).__name__}, which has no JSON")


def _checksum(key: bytes, value: str) -> bytes:
    return hashlib.blake2b(key + value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
