"""`harness run a.toml b.toml`: a report each, models loaded once, and the worst exit code."""

from __future__ import annotations

from itertools import product

import pytest

from harness.cli.run import EXIT_CODE_ORDER
from harness.errors import ExitCode
from harness.testing import ROWS, Project

COUNTING = """
import contextlib
from pathlib import Path
from harness import hookimpl, loader
from harness.testing import identity, load, open_source

@loader(open=open_source, identity=identity)
@contextlib.contextmanager
def counted(refs, *, dtype: str = "auto"):
    with Path("loaded.txt").open("a") as log:
        log.write(" ".join(ref.name for ref in refs) + "\\n")
    with load(refs, dtype=dtype) as subjects:
        yield subjects
    with Path("loaded.txt").open("a") as log:
        log.write("freed\\n")

@hookimpl
def harness_loaders():
    return {"counted": counted}
"""
GOOD = """
[suite]
name = "good"
[model]
use = "counted"
path = "base"
[candidate]
merged = "good"
[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.5
"""
BAD = (
    GOOD.replace("min = 0.5", "min = 0.999")
    .replace('name = "good"', 'name = "bad"')
    .replace('id = "floor"', 'id = "top"')
)
OTHER = [{**row, "id": f"other-{row['id']}", "input": f"other {row['input']}"} for row in ROWS]


@pytest.fixture
def suites(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two suites of one model on different rows: one passes, one fails."""
    monkeypatch.syspath_prepend(project.folder)
    bad = BAD.replace("test.jsonl", "other.jsonl")
    rows = {"test.jsonl": ROWS, "other.jsonl": OTHER}
    return project.write({"good.toml": GOOD, "bad.toml": bad, "counting.py": COUNTING, **rows})


def test_suites_share_loaded_models_and_end_with_the_worst_code(suites: Project) -> None:
    """Each has its report; base and candidate are loaded once, and freed at the end."""
    folder = suites.folder
    words = (
        "run",
        str(folder / "good.toml"),
        str(folder / "bad.toml"),
        "--out",
        str(folder / "reports"),
        "-p",
        "counting",
    )
    outcome = suites.harness(*words)
    assert outcome.code in (ExitCode.FAILED, ExitCode.INCONCLUSIVE), outcome.out + outcome.err
    assert sorted(p.name.partition("-")[0] for p in folder.glob("reports/*")) == ["bad", "good"]
    log = (folder / "loaded.txt").read_text("utf-8").splitlines()
    assert (log.count("base"), log.count("merged")) == (1, 3), log  # once to evaluate it, and for a check of each suite
    assert log.count("freed") == 4
    assert log[-2:] == ["freed", "freed"]


def test_a_mistake_in_the_last_suite_comes_before_the_first_runs(suites: Project) -> None:
    """Nothing was measured, and the line is the suite's."""
    suites.write({"odd.toml": GOOD.replace('"floor"', '"floor"\nminn = 1')})
    folder = suites.folder
    outcome = suites.harness("run", str(folder / "good.toml"), str(folder / "odd.toml"), "-p", "counting")
    assert (outcome.code, "minn" in outcome.err) == (4, True)
    assert not (folder / "loaded.txt").exists()
    outcome = suites.harness("run", "a.toml", "b.toml", "--junit-xml", "x.xml")
    assert (
        outcome.code,
        "--junit-xml is a single file; run the suites one by one, or read reports/*/junit.xml" in outcome.err,
    ) == (4, True)


def test_the_worst_code_is_what_was_not_judged_then_what_failed() -> None:
    """Every code of a run has its place, and 0 is the last."""
    assert set(EXIT_CODE_ORDER) == set(ExitCode) - {
        ExitCode.REFUSED,
        ExitCode.UNAVAILABLE,
    }  # which only other commands have
    assert EXIT_CODE_ORDER[-1] is ExitCode.OK
    for one, other in product(EXIT_CODE_ORDER, EXIT_CODE_ORDER):
        assert min([one, other], key=EXIT_CODE_ORDER.index) == min([other, one], key=EXIT_CODE_ORDER.index)
    assert (
        EXIT_CODE_ORDER.index(ExitCode.USAGE)
        < EXIT_CODE_ORDER.index(ExitCode.FAILED)
        < EXIT_CODE_ORDER.index(ExitCode.INCONCLUSIVE)
    )
