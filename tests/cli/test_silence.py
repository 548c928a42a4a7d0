"""No stage is silent: what is done, how much of it, and what decides nothing in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import UsageError
from harness.internals import subprocess_call
from harness.testing import Project

LISTENS = """
import sys
from harness import hookimpl

@hookimpl
def harness_progress(progress):
    print(progress.what, f"{progress.done}/{progress.total}", *progress.facts.values(), file=sys.stderr)
"""
ASKED = """
import time
from harness.internals import subprocess_call

def look(sleeps):
    for number in (1, 2):
        subprocess_call.report_progress("things", number, 2)
    print("noise")
    time.sleep(sleeps)
    return {"slept": sleeps}

subprocess_call.serve_call(look)
"""


@pytest.mark.parametrize("command", ["check", "plan"])
def test_looking_ahead_says_where_it_is(suite: Project, command: str) -> None:
    """Reading, tokens, rows as they are prepared and each check by its name are told as they begin."""
    told = suite.write({"harnessfile.py": LISTENS}).harness(command, "suite.toml").err
    for line in ("preflight 0/1", "preflight, tokens 0/1 qa", "training rows 0/1", "checks of the data 0/"):
        assert line in told, told
    assert " D10 train-test-leak\n" in told


@pytest.mark.slow
def test_another_process_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are heard as they come, before the answer; one that takes too long is ended."""
    (tmp_path / "asked.py").write_text(ASKED, "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    heard: list[tuple[str, int, int]] = []
    facts = subprocess_call.call_module("asked", {"sleeps": 0}, "lost", heard=lambda *sign: heard.append(sign))
    assert (heard, facts) == ([("things", 1, 2), ("things", 2, 2)], {"slept": 0})
    with pytest.raises(UsageError, match=r"lost: the subprocess did not end within 0\.5 s"):
        subprocess_call.call_module("asked", {"sleeps": 60}, "lost", seconds=0.5)


@pytest.mark.slow
def test_what_does_not_ship_is_one_line(suite: Project) -> None:
    """An adapter that is merged is judged in a line, and with -v in full; what ships always is."""
    short = suite.run().out
    full = suite.run("-v").out
    assert [text.count("n=60") for text in (short, full)] == [1, 2]
    assert short.count("PASS         floor: qa.exact_match") == 2
    failed = suite.run("--set", "train.skill=0.1")
    assert (failed.code, failed.out.count("FAIL         floor (not what ships)")) == (1, 1)
    assert "FAIL merged: floor: " in failed.out and "FAIL adapter: floor" not in failed.out
