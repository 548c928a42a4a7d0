"""Files and folders that are whole or not there: locks, modes, and what is on the disk before it counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.files import append_line, replace_folder, write_text


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask under which a group may read and others may not."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def read_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """What the harness writes is as readable as what any other program of this user writes."""
    write_text(tmp_path / "a.json", "{}")
    append_line(tmp_path / "b.jsonl", {})
    with replace_folder(tmp_path / "c") as work:
        write_text(work / "d.json", "{}")
    files = [read_mode(tmp_path / name) for name in ("a.json", "b.jsonl", "c/d.json")]
    assert (files, read_mode(tmp_path / "c")) == ([0o666 & ~umask] * 3, 0o777 & ~umask)


def test_live_work_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers of one host name write to one place: no process id of the other tells that it is dead."""

    def unknown(process: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", unknown)
    with replace_folder(tmp_path / "out") as first:
        write_text(first / "a", "1")
        with replace_folder(tmp_path / "out") as second:
            write_text(second / "b", "2")
        assert (first / "a").read_text("utf-8") == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from harness.files import replace_folder
with replace_folder(Path(sys.argv[1])) as work:
    (work / "half").write_text("x")
    if sys.argv[2] == "moved":
        Path(sys.argv[1]).rename(work.with_name(work.name + ".old"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["writing", "moved"])
def test_dead_work_folder_is_swept(when: str, tmp_path: Path) -> None:
    """What a killed process left is removed by the next, and what it had moved out of the way is brought back."""
    with replace_folder(tmp_path / "out") as work:
        write_text(work / "a", "1")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), when])
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(KeyError), replace_folder(tmp_path / "out"):
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/a").read_text("utf-8") == "1"


def test_folder_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is synced before the folder takes its place, and what it lies in afterwards."""
    synced, real = list[tuple[str, bool]](), os.fsync
    final = tmp_path / "out"

    def record(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, final.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", record)
    with replace_folder(final) as work:
        (work / "model").mkdir()
        (work / "model/weights").write_bytes(b"x")
        (work / "card").write_bytes(b"x")
    assert {name for name, _ in synced} >= {"model", "weights", "card", work.name, tmp_path.name}
    assert all(there == (name == tmp_path.name) for name, there in synced)
