"""What may grow with a suite, its rows and its runs, and what must not: copies, calls, rows and memory, counted."""

from __future__ import annotations

import gc
import json
import pickle
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.record import RunSnapshot
from harness.records import copies
from harness.records.metrics import Metric
from harness.records.run import ItemResult, Run
from harness.records.samples import Result, Sample, Score
from harness.reports import rows as rows_module
from harness.reports.rows import read_all_rows
from harness.reports.run_folder import RunFolder, iterate_rows, read_answers
from harness.testing import SUITE, Project
from harness_report import reading
from harness_report.history import MAX_RUNS
from harness_report.reading import LoadedRun

FEW, TIMES = 4, 4


def make_suite_files(evals: int, rows: int = 20) -> dict[str, Any]:
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

    for owner, name in (
        (copies, "detach_copy"), (Adjudicator, "decide_if_ready"), (json, "loads"), (rows_module, "_format_answer"),
        (reading, "read_run"),
    ):  # fmt: skip
        count(owner, name)
    return found


def measure_peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that were taken at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_events_cost_what_they_tell(project: Project, calls: Counter[str]) -> None:
    """Four times the evals and gates take four times the copies, judgements and lines of the ledger, not sixteen."""
    found = []
    for evals in (FEW, TIMES * FEW):
        calls.clear()
        assert project.write(make_suite_files(evals)).run("--no-cache").code in (0, 1, 5)
        found.append(Counter(calls))
    for name in ("detach_copy", "decide_if_ready", "loads"):
        assert found[1][name] <= (TIMES + 0.5) * found[0][name], (name, found)


WATCHES = """
from pathlib import Path
from harness import hookimpl
SEEN = []

@hookimpl
def harness_item_finish(run, item):
    SEEN.append(run)

@hookimpl
def harness_run_finish(run):
    told = [len(r.results) for r in SEEN]
    Path("seen.txt").write_text(repr((told, SEEN[0].suite)))
"""


def test_a_run_that_is_watched_stays_as_it_was(project: Project) -> None:
    """What an event showed is what there was then, however late a listener looks at it."""
    project.write({**make_suite_files(2), "harnessfile.py": WATCHES}).run()
    assert (project.folder / "seen.txt").read_text("utf-8") == repr(([1, 2, 3, 4, 5, 6], "fake"))


def test_a_run_that_is_watched_is_a_run() -> None:
    """It can be taken apart, changed and sent away as any other, and nothing of it is the record's own."""
    run = Run("s", "p", "d", 1, 0.05, "m", "t", "0", results=[ItemResult("i", "b", "e", "done", {"m": 1.0})])
    seen = RunSnapshot.of(run)
    seen.results[0].metrics["m"] = 0.0
    seen.results.append(seen.results[0])
    seen.gates = 3
    assert (run.gates, len(run.results), run.results[0].metrics) == (0, 1, {"m": 1.0})
    assert isinstance(seen, Run) and (seen.gates, len(seen.results)) == (3, 2)
    assert asdict(RunSnapshot.of(run)) == asdict(run) and replace(RunSnapshot.of(run), gates=2).gates == 2
    assert pickle.loads(pickle.dumps(RunSnapshot.of(run))) == run


# -- rows ------------------------------------------------------------------------------------------


METRICS = {"m": Metric("m", "higher", "proportion")}


def write_run(folder: Path, rows: int, subjects: Sequence[str] = ("base", "merged")) -> tuple[Run, Path]:
    """Return a run of so many rows with the folder that holds them; every third row is wrong, the next one lost."""
    place = RunFolder(folder / str(rows), "fake", datetime.now(UTC))
    for n, subject in enumerate(subjects):
        place.add(make_result(subject, rows, n), asked(rows), METRICS, {})
    reports = [ItemResult(s, s, "qa", "done", {"m": 0.6}, better={"m": "higher"}, n=rows) for s in subjects]
    return Run("fake", "p", "d", 1, 0.05, "m", "t", "0", results=reports), place.path


def asked(rows: int) -> list[Sample]:
    return [Sample(f"q{i}", f"question {i} " * 5, f"w{i}", {"input": f"question {i}"}) for i in range(rows)]


def make_result(subject: str, rows: int, wrong: int = 0) -> Result:
    scores = [Score(s.id, {"m": float((i + wrong) % 3 > 0)}, answer="yes") for i, s in enumerate(asked(rows))]
    return Result(subject, "qa", tuple(scores), {"m": 0.6}, "d")


@pytest.mark.slow
def test_three_rows_are_three_answers(tmp_path: Path, calls: Counter[str]) -> None:
    """`show --rows -n 3` reads the values of all rows one after the other, and holds three rows."""
    run, folder = write_run(tmp_path, 4000)
    calls.clear()
    listed = read_all_rows(run, folder, "qa", wrong=True, most=3)
    found, there, of = listed.rows, listed.there, listed.of
    assert ([row.change for row in found], there, of) == (["lost"] * 3, 1333, 4000)
    assert calls["_format_answer"] == 3 * len(run.results)
    most, whole = (measure_peak_bytes(lambda n=n: read_all_rows(run, folder, "qa", most=n)) for n in (3, None))
    assert most < measure_peak_bytes(lambda: list(iterate_rows(folder, "base", "qa"))) / 4 < whole


@pytest.mark.slow
def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """Of what is written of an item, in the run's folder and in evidence, one row is in memory at a time."""
    folder = RunFolder(tmp_path, "fake", datetime.now(UTC))
    sizes = []
    for rows in (500, 500 * TIMES):
        result, samples = make_result("base", rows), asked(rows)
        sizes.append(measure_peak_bytes(lambda r=result, s=samples: folder.add(r, s, METRICS, {})))
    assert sizes[1] - sizes[0] < 500_000, sizes  # of a file of two megabytes: what finds a score by its row


@pytest.mark.slow
def test_a_page_holds_of_a_row_what_it_shows(tmp_path: Path) -> None:
    """What two subjects' rows have in common is in memory once, and what no page shows is not."""
    run, folder = write_run(tmp_path, 1000)
    lock = {"suite": {"evals": [{"name": "qa", "slices": []}]}}
    whole = measure_peak_bytes(lambda: [read_answers(folder, s, "qa") for s in ("base", "merged")])
    page = LoadedRun(folder, run, lock)
    assert measure_peak_bytes(lambda: [page.rows(s, "qa") for s in ("base", "merged")]) < whole / 2
    ours, theirs = (page.rows(s, "qa")["q5"] for s in ("merged", "base"))
    assert ours["arguments"] is theirs["arguments"] and ours["m"] != theirs["m"]


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_history_reads_what_it_shows(suite: Project, calls: Counter[str]) -> None:
    """Of many runs a glimpse is taken, and the last ones alone are read whole; JSON reads one at a time."""
    first = suite.run().report
    for i in range(60):
        place = Path(first.folder).with_name(f"fake-20200101T0000{i:02}Z")
        place.mkdir()
        told = json.loads(Path(first.folder, "report.json").read_text("utf-8"))
        (place / "report.json").write_text(json.dumps(told | {"started": f"2020-01-01T00:00:{i:02}+00:00"}), "utf-8")
    (place.with_name("odd")).mkdir()
    (place.with_name("odd") / "report.json").write_text('{"suite": "fake", "results": [{"verdicts": [1]}]}', "utf-8")
    calls.clear()
    out = suite.harness("history", "fake").out
    assert "fake: 61 runs, 1 January 2020 to" in out and calls["read_run"] == MAX_RUNS
    assert len(json.loads(suite.harness("history", "fake", "--json").out)["runs"]) == 61
