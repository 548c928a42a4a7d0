"""One process runs a command line on one folder after another, and each call is judged by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import process
from tests.hostile.process import Call, Process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs pidfd and /proc"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of others, and a secret beside it."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "secret.txt").write_text("secret", "utf-8")
    return tmp_path


@pytest.fixture
def running(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A process whose command line does what the file `code.txt` of the folder says."""

    def do_as_told(words: list[str]) -> int:
        exec(Path(words[0]).read_text("utf-8"))
        return 0

    monkeypatch.setattr("harness.cli.main.main", do_as_told)
    theirs = place / "theirs"
    call = Call([str(theirs / "code.txt")], place, place / "output", {}, place, [], [theirs], theirs, "")
    running = Process(call)
    yield running
    running.close()


def test_each_call_has_its_own_folder_and_output(place: Path, running: Process) -> None:
    """Nothing of a call is in the next one's result."""
    for word in ("first", "next"):
        (place / "theirs/code.txt").write_text(f"print({word!r})", "utf-8")
        ended = running.call()
        assert (ended.code, ended.violation, ended.opened) == (0, "", {"code.txt"})
        assert (place / "output").read_text("utf-8") == f"{word}\n"
    assert running.calls == 2


def test_a_violation_ends_the_process(place: Path, running: Process) -> None:
    """Whatever it did before."""
    (place / "theirs/code.txt").write_text("pass", "utf-8")
    assert running.call().code == 0
    (place / "theirs/code.txt").write_text(f"open({str(place / 'secret.txt')!r})", "utf-8")
    ended = running.call()
    assert "secret.txt" in ended.violation
    assert not running.is_alive


def test_a_call_that_does_not_end_is_ended(place: Path, running: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no violation, but not in time."""
    monkeypatch.setattr(process, "MAX_SECONDS", 0.5)
    (place / "theirs/code.txt").write_text("import time; time.sleep(60)", "utf-8")
    assert not running.call().in_time
    assert not running.is_alive
