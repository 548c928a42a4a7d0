"""Evaluators that mark: answers first, marks when the model is gone."""

from __future__ import annotations

import json

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

MARKER = """
from contextlib import contextmanager
from pathlib import Path
from harness import Caveat, Score, hookimpl, metric, testing

LOG = Path(__file__).with_name("log.txt")

def log(text):
    with LOG.open("a") as f:
        f.write(text + "\\n")

@contextmanager
def load(refs, *, dtype: str = "auto"):
    names = "+".join(r.name for r in refs)
    log(f"load {names}")
    with testing.load(refs) as subjects:
        yield subjects
    log(f"free {names}")

load.open, load.identity = testing.open_source, testing.identity

@metric("wins", better="higher", scale="proportion")
def compare(samples, answers, baseline_answers, *, marking, say: str = "", shut: str = "", max_new_tokens: int = 20):
    log(f"mark {marking.what} {len(samples)}")
    if say == "crash":
        raise RuntimeError("cannot mark")
    for s, ours, theirs in zip(samples, answers, baseline_answers):
        value = 0.5 if ours == theirs else float(ours == s.target)
        yield Score(s.id, {"wins": value}, answer=ours, details={"baseline": theirs})
    if say:
        yield Caveat(say, shut or None)

compare.marks = "pairs"

@metric("right", better="higher", scale="proportion")
def check(samples, answers, baseline_answers, *, marking):
    assert baseline_answers is None
    for s, a in zip(samples, answers):
        yield Score(s.id, {"right": float(a == s.target)}, answer=a)

check.marks = lambda options: "answers"

@hookimpl
def harness_evaluators():
    return {"compare": compare, "check": check}

@hookimpl
def harness_loaders():
    return {"watched": load}
"""
MARKED = SUITE.replace('use = "exact_match"', 'use = "compare"').replace("qa.exact_match", "qa.wins")
MARKED = MARKED.replace('[model]\nuse = "fake"', '[model]\nuse = "watched"')
CHECKED = MARKED.replace('use = "compare"', 'use = "check"').replace("qa.wins", "qa.right")


@pytest.fixture
def suite(project: Project) -> Project:
    """A project whose candidate is compared with the base's answers, and wins."""
    return project.write({"suite.toml": MARKED, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": MARKER})


def test_candidate_is_marked_when_it_is_gone(suite: Project) -> None:
    """Answers are generated while a model is loaded and marked after it was freed: a judge may need the room."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.verdict("floor") == "PASS"
    log = (suite.folder / "log.txt").read_text("utf-8").splitlines()
    marks = [line for line in log if line.startswith("mark")]
    assert marks == ["mark rehearsal::qa 2", "mark suite.toml::adapter::qa 60", "mark suite.toml::merged::qa 60"]
    before = [log[: log.index(line)] for line in marks]
    assert [lines[-1] for lines in before] == ["free base", "free adapter", "free merged"]
    assert all(sum(w.startswith("load") - w.startswith("free") for w in lines) == 0 for lines in before)


def test_base_has_answers_and_no_metric(suite: Project) -> None:
    """What compares with the base says nothing of the base alone; its answers stand in the samples file."""
    run = suite.run().report
    base = next(r for r in run.results if r.subject == "base")
    assert (base.outcome, base.metrics, base.slices, base.n) == ("done", {}, {}, 60)
    (path,) = suite.folder.glob("reports/*/base/samples_qa_*.jsonl")
    assert json.loads(path.read_text("utf-8").splitlines()[0])["resps"][0][0]
    (path,) = suite.folder.glob("reports/*/merged/samples_qa_*.jsonl")
    assert "baseline" in json.loads(path.read_text("utf-8").splitlines()[0])["details"]


@pytest.mark.slow
def test_answers_are_remembered(suite: Project) -> None:
    """A second run marks the answers of the first, and loads no model."""
    suite.run()
    (suite.folder / "log.txt").unlink()
    outcome = suite.run()
    assert outcome.code == 0
    assert "load" not in (suite.folder / "log.txt").read_text("utf-8")
    assert [r.cache_hits for r in outcome.report.results] == [60, 60, 60]


def test_answers_alone_are_marked_on_baselines_too(suite: Project) -> None:
    """What marks answers one by one is a number about the base as well, which gates may compare with."""
    text = CHECKED.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.1')
    outcome = suite.write({"suite.toml": text}).run()
    assert outcome.code == 0
    base = next(r for r in outcome.report.results if r.subject == "base")
    assert 0.1 < base.metrics["right"] < 0.5
    verdict = next(v for v in outcome.report.verdicts if v.candidate == "merged")
    assert verdict.won and not verdict.lost


def test_another_baseline_is_asked_for_its_answers(suite: Project) -> None:
    """`against` may name any baseline, which then answers though no gate names it."""
    text = (
        MARKED.replace('use = "compare"', 'use = "compare"\nagainst = "fewshot"') + "\n[subject.fewshot]\nshots = 2\n"
    )
    outcome = suite.write({"suite.toml": text}).run("-k", "merged")
    assert outcome.verdict("floor") == "PASS"
    subjects = [r.subject for r in outcome.report.results if r.outcome == "done"]
    assert subjects == ["fewshot", "merged"]


@pytest.mark.parametrize(("shut", "code"), [("ERROR", 6), ("INCONCLUSIVE", 6), ("", 0)])
def test_caveat_can_keep_a_gate_shut(suite: Project, shut: str, code: int) -> None:
    """What a marker says of the whole is reported; with an outcome it is every gate's, though all rows are won."""
    text = MARKED.replace('use = "compare"', f'use = "compare"\nsay = "the judge is drunk"\nshut = "{shut}"')
    outcome = suite.write({"suite.toml": text}).run()
    assert outcome.code == code
    assert outcome.verdict("floor") == (shut or "PASS")
    assert outcome.report.results[-1].caveats == ("the judge is drunk",)
    assert ("note: the judge is drunk" in outcome.out) == (not shut)  # else its gate says it
    assert (suite.folder / "exports").exists() == (code == 0)


def test_long_reason_is_said_once_where_several_gates_share_it(suite: Project) -> None:
    """Two gates on two candidates that one caveat shuts: once an item, once in the summary, what decides first."""
    text = MARKED.replace('use = "compare"', 'use = "compare"\nsay = "the judge was at the sherry"\nshut = "ERROR"')
    text += '\n[[gate]]\nid = "ceiling"\nmetric = "qa.wins"\nmax = 1.0\nseverity = "warn"\n'
    lines = suite.write({"suite.toml": text}).run("-v").out.splitlines()
    assert sum("the judge was at the sherry" in line for line in lines) == 3
    assert "ERROR merged: floor: the judge was at the sherry" in lines
    others = [line for line in lines if line.startswith("ERROR")][1:]
    shared = ("adapter: floor (not what ships)", "adapter: ceiling (warn)", "merged: ceiling (warn)")
    assert others == [f"ERROR {v}: for the same reason" for v in shared]


def test_marker_that_crashes_stops_before_training(suite: Project) -> None:
    """The rehearsal marks two rows of the base against itself."""
    text = MARKED.replace('use = "compare"', 'use = "compare"\nsay = "crash"')
    outcome = suite.write({"suite.toml": text}).run()
    assert outcome.code == 4
    assert "cannot mark" in outcome.out
    assert "\ntrain" not in outcome.out


def test_base_passed_off_as_the_candidate_is_an_error(suite: Project) -> None:
    """Answers of the same weights are not compared, whatever a marker makes of them."""
    outcome = suite.run("--candidate", str(suite.folder / "base"), "--ignore", "M2")
    assert outcome.verdict("floor") == "ERROR"
    assert "), so there is nothing to compare" in outcome.out


def test_rows_of_one_prompt_are_a_cluster(suite: Project) -> None:
    """Two answers to one prompt are not independent: the gate's test knows, without a column that says so."""
    rows = [{**r, "id": f"{r['id']}-{n}", "target": r["target"] * n} for r in ROWS for n in (1, 2)]
    outcome = suite.write({"test.jsonl": rows}).run()
    verdict = next(v for v in outcome.report.verdicts if v.candidate == "merged")
    assert (verdict.n, verdict.units) == (120, 60)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("min = 0.5", 'versus = "base"\nbetter_by = 0.1', '" is a comparison with base already; claim min or max'),
        (
            'use = "compare"',
            'use = "compare"\nagainst = "bass"',
            'against is "bass", which is not a model of the suite; did you mean "base"?',
        ),
        ('use = "compare"', 'use = "compare"\nmarking = 3', 'unknown option "marking"'),
    ],
)
def test_mistakes_are_one_clear_line(suite: Project, before: str, after: str, told: str) -> None:
    """A wrong claim, a wrong baseline and what is not an option are told at collection."""
    outcome = suite.write({"suite.toml": MARKED.replace(before, after)}).run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err
