"""Hashing where no thread can start."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from harness.artifacts import digests
from harness.errors import memory_error


def test_hashing_is_serial_where_no_thread_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and tensors have the digests that threads give them."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    (tmp_path / "a.txt").write_text("a")
    names = ["m.safetensors", "a.txt"]
    threaded = digests.hash_files(tmp_path, names)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    digests._hashed.clear()
    assert digests.hash_files(tmp_path, names) == threaded


def test_a_missing_thread_is_no_lack_of_memory() -> None:
    """The advice to give the process more memory would not help."""
    assert not memory_error(RuntimeError("can't start new thread"))
