"""What may grow with a suite, its rows and its runs, and what must not: copies, calls, rows and memory, counted."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import pytest

from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.record import Watched
from harness.records import frozen
from harness.records.run import Report, Run
from harness.testing import SUITE, Project

FEW, TIMES = 4, 4


def many(evals: int, rows: int = 20) -> dict[str, Any]:
    """Return the files of a suite of so many evals, each with two gates."""
    text = SUITE[: SUITE.index("[[eval]]")] + SUITE[SUITE.index("[[export]]") :]
    for i in range(evals):
        text += f'[[eval]]\nname = "e{i}"\nuse = "exact_match"\ndata = "{i}.jsonl"\n'
        text += f'[[gate]]\nid = "f{i}"\nmetric = "e{i}.exact_match"\nmin = 0.5\n'
        text += f'[[gate]]\nid = "b{i}"\nmetric = "e{i}.exact_match"\nversus = "base"\nbetter_by = 0.0\n'
    asked = {f"{i}.jsonl": [{"input": f"{i} {j} say {j}", "target": str(j)} for j in range(rows)] for i in range(evals)}
    return {"suite.toml": text, "train.jsonl": [{"input": "a say b", "target": "b"}] * 8, **asked}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often functions were called that a test names."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        was = getattr(owner, name)

        def counted(*args: Any, **given: Any) -> Any:
            found[name] += 1
            return was(*args, **given)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in ((frozen, "_copied"), (Adjudicator, "give"), (json, "loads")):
        count(owner, name)
    return found


def test_events_cost_what_they_tell(project: Project, calls: Counter[str]) -> None:
    """Four times the evals and gates take four times the copies, judgements and lines of the ledger, not sixteen."""
    found = []
    for evals in (FEW, TIMES * FEW):
        calls.clear()
        assert project.write(many(evals)).run("--no-cache").code in (0, 1, 5)
        found.append(Counter(calls))
    for name in ("_copied", "give", "loads"):
        assert found[1][name] <= (TIMES + 0.5) * found[0][name], (name, found)


WATCHES = """
from pathlib import Path
from harness import hookimpl
SEEN = []

@hookimpl
def harness_report(run, report):
    SEEN.append(run)

@hookimpl
def harness_run_finish(run):
    told = [len(r.reports) for r in SEEN]
    Path("seen.txt").write_text(repr((told, SEEN[0].suite)))
"""


def test_a_run_that_is_watched_stays_as_it_was(project: Project) -> None:
    """What an event showed is what there was then, however late a listener looks at it."""
    project.write({**many(2), "harnessfile.py": WATCHES}).run()
    assert (project.folder / "seen.txt").read_text("utf-8") == repr(([1, 2, 3, 4, 5, 6], "fake"))


def test_a_run_that_is_watched_is_a_run() -> None:
    """It can be taken apart, changed and sent away as any other, and nothing of it is the record's own."""
    run = Run("s", "p", "d", 1, 0.05, "m", "t", "0", reports=[Report("i", "b", "e", "done", {"m": 1.0})])
    seen = Watched.of(run)
    seen.reports[0].metrics["m"] = 0.0
    seen.reports.append(seen.reports[0])
    seen.gates = 3
    assert (run.gates, len(run.reports), run.reports[0].metrics) == (0, 1, {"m": 1.0})
    assert isinstance(seen, Run) and (seen.gates, len(seen.reports)) == (3, 2)
    assert asdict(Watched.of(run)) == asdict(run) and replace(Watched.of(run), gates=2).gates == 2
    assert pickle.loads(pickle.dumps(Watched.of(run))) == run
