"""`harness cache`: what is kept, how old and how large, and what may go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.artifacts.artifact_cache import list_entries, select_removable
from harness.testing import ROWS, SUITE, TRAIN, Project


@pytest.fixture
def cache(project: Project) -> Path:
    """The cache that a run left, with a model beside it that was last used forty days ago."""
    assert project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run().code == 0
    folder = project.folder / "cache"
    for name in ("models/old/weights", "models/made/old.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 5000)
        long_ago = time.time() - 40 * 86400
        os.utime(folder / name, (long_ago, long_ago))
    return folder


def test_the_cache_is_listed(project: Project, cache: Path) -> None:
    """Kinds with their numbers and sizes; nothing is removed."""
    before = sorted(cache.rglob("*"))
    outcome = project.harness("cache")
    assert outcome.code == 0
    assert "models         1       10 kB  used 40 days ago  models, downloaded or converted" in outcome.out
    assert "answers        1" in outcome.out
    assert "trained        1" in outcome.out
    assert project.harness("cache", "--older", "30").out.endswith("--prune removes them\n")
    assert sorted(cache.rglob("*")) == before


@pytest.mark.slow
def test_what_was_not_used_for_long_is_removed(project: Project, cache: Path) -> None:
    """The old model goes with its note; the rest stays, and a run finds it as before."""
    outcome = project.harness("cache", "--older", "30", "--prune")
    assert (outcome.code, outcome.out) == (
        0,
        "  models/old  10 kB  used 40 days ago\n" + outcome.out.splitlines()[-1] + "\n",
    )
    assert not list(cache.glob("models/**/old*"))
    assert all(r.cache_hits == r.requests for r in project.run().report.results)


@pytest.mark.slow
def test_the_longest_unused_goes_first_until_the_rest_fits(project: Project, cache: Path) -> None:
    """Attempts are no part of it: they are kept whatever room is wanted."""
    found = list_entries(cache)
    assert [e.name for e in select_removable(found, None, sum(e.bytes for e in found) - 1)] == ["models/old"]
    assert project.harness("cache", "--size", "0", "--prune").code == 0
    assert list_entries(cache) == []
    assert (cache / "attempts.jsonl").is_file()
    assert project.run().code == 0


def test_nothing_is_removed_while_another_process_uses_it(project: Project, cache: Path) -> None:
    """One line, and everything stays, until that process has ended."""
    code = "import sys; from harness.files import cache_dir; cache_dir(); print(flush=True); sys.stdin.read()"
    env = {**os.environ, "HARNESS_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=-1, stdout=-1) as other:
        assert other.stdout
        other.stdout.readline()
        outcome = project.harness("cache", "--size", "0", "--prune")
        assert (
            outcome.code,
            ('": is in use by another harness process; wait for that to end, since it still reads these files')
            in outcome.err,
        ) == (4, True)
        assert (cache / "models/old/weights").is_file()
        other.kill()
    assert project.harness("cache", "--size", "0", "--prune").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prune"], "--prune needs a limit: --older DAYS or --size BYTES"),
        (["--size", "much"], '--size is "much"; give bytes, for instance 500M or 20G'),
        (["--older", "-1"], "--older is -1; give days, 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_a_mistake(project: Project, words: list[str], says: str) -> None:
    """One line each."""
    outcome = project.harness("cache", *words)
    assert (outcome.code, outcome.err) == (4, f"error: {says}\n")
