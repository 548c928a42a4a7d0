"""Select and confirm splits, and the ledger of attempts, seen from outside."""

from __future__ import annotations

import json
import math

import pytest

from harness.ledger import spent
from harness.testing import Project
from tests.test_suite import ROWS, SUITE, TRAIN

SELECT = [{"id": f"s{i}", "input": f"choose {i} say v{i}", "target": f"v{i}", "kind": "ab"[i % 2]} for i in range(40)]
OTHER = [{"id": f"q{i}", "input": f"other {i} say u{i}", "target": f"u{i}", "kind": "ab"[i % 2]} for i in range(60)]
SPLIT = SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\nselect = "select.jsonl"')


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with both splits whose suite passes."""
    files = {"suite.toml": SPLIT, "test.jsonl": ROWS, "train.jsonl": TRAIN, "select.jsonl": SELECT}
    return project.write(files)  # type: ignore[arg-type]


def ledger(suite: Project) -> list[dict[str, object]]:
    path = suite.folder / "cache/attempts.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def attempts(suite: Project, skill: float, *flags: str) -> int:
    """Run with a recipe and return which attempt the gate on the merged model was."""
    outcome = suite.run("--set", f"train.skill={skill}", *flags)
    return next(v.attempt for v in outcome.report.verdicts if v.candidate == "merged")


def test_select_chooses_and_confirms_nothing(suite: Project) -> None:
    """--select measures on the other split: no attempt, no export, never exit 0."""
    outcome = suite.run("--select", "-p", "no:checks")
    assert outcome.code == 6
    assert outcome.verdict("floor") == "PASS"
    assert outcome.report.reports[-1].n == len(SELECT)
    assert "split  select" in outcome.out
    assert "because --select: the rows that chose a candidate cannot confirm it" in outcome.out
    assert ledger(suite) == []
    assert not (suite.folder / "exports").exists()


def test_confirm_is_the_default(suite: Project) -> None:
    """Without --select the gates are judged on `data`."""
    outcome = suite.run()
    assert outcome.code == 0
    assert outcome.report.reports[-1].n == len(ROWS)


def test_evals_without_a_select_split_are_left_alone(suite: Project) -> None:
    """Choosing never looks at rows that are kept to confirm."""
    suite.write({"suite.toml": SPLIT + '\n[[eval]]\nname = "other"\nuse = "contains"\ndata = "test.jsonl"\n'})
    assert {r.eval for r in (suite.run("--select"), suite.run("--select"))[0].report.reports} == {"qa"}
    assert "suite.toml::base::other" not in suite.run("--select", "--collect-only").out
    suite.write({"suite.toml": SUITE})
    told = suite.run("--select")
    assert told.code == 4
    assert "no eval has a select split" in told.err


LEAKS = {
    "a row": ([*SELECT, {**ROWS[3], "id": "copied"}], "", "1 of 41 rows are in"),
    "a cluster": (SELECT, '\ncluster = "kind"', '40 of 40 rows share their "kind" with "data"'),
}


@pytest.mark.parametrize("case", LEAKS)
def test_splits_must_have_nothing_in_common(suite: Project, case: str) -> None:
    """A row, or a cluster of rows, in both splits is a mistake at collection."""
    rows, extra, told = LEAKS[case]
    suite.write({"select.jsonl": rows, "suite.toml": SPLIT.replace('"select.jsonl"', '"select.jsonl"' + extra)})  # type: ignore[dict-item]
    outcome = suite.run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err
    assert "what chose a candidate cannot confirm it" in outcome.err


def test_every_new_candidate_is_an_attempt_and_the_same_one_is_not(suite: Project) -> None:
    """Recipes are attempts at the same rows; answers that were given before are none."""
    assert attempts(suite, 0.9) == 1
    assert attempts(suite, 0.6) == 2
    assert attempts(suite, 0.8) == 3
    assert attempts(suite, 0.9) == 1
    assert attempts(suite, 0.6, "--no-cache") == 2
    lines = [line for line in ledger(suite) if line["candidate"] == "merged"]
    assert [line["attempt"] for line in lines] == [1, 2, 3]
    assert {line["suite"] for line in lines} == {"fake"}
    assert len({line["suite_digest"] for line in lines}) == 3


def test_attempts_are_told(suite: Project) -> None:
    """Report, export and JUnit say which attempt it was, and what that does to the risk."""
    for skill in (0.6, 0.7):
        attempts(suite, skill)
    outcome = suite.run("--junit-xml", str(suite.folder / "ci.xml"))
    assert outcome.code == 0
    said = 'attempt 3 of "floor" on the same rows: 3 attempts at 0.05 may add up to a risk of 0.15'
    assert said in outcome.out
    assert "exact binomial; attempt 3" in outcome.out
    assert "attempt 3" in (suite.folder / "ci.xml").read_text("utf-8")
    card = (suite.folder / "exports/fake/README.md").read_text("utf-8")
    assert "; attempt 3 |" in card
    assert json.loads((suite.folder / "exports/fake/evidence/gates.json").read_text("utf-8"))[0]["attempt"] == 3


def test_other_thresholds_are_attempts_too(suite: Project) -> None:
    """A floor that is lowered after a failure is asked of rows that were looked at; other rows were not."""
    assert attempts(suite, 0.6) == 1
    assert attempts(suite, 0.7, "--set", "gate.0.min=0.4") == 2
    suite.write({"test.jsonl": OTHER})
    assert attempts(suite, 0.8) == 1


def test_spending_keeps_the_stated_risk(suite: Project) -> None:
    """attempts = "spend" tests attempt k at alpha * 6 / (pi k)^2: a bare pass at first is none at the third attempt."""
    suite.write({"suite.toml": SPLIT.replace('name = "fake"', 'name = "fake"\nattempts = "spend"')})
    alphas = []
    for skill in (0.75, 0.77, 0.8):
        outcome = suite.run("--set", f"train.skill={skill}", "--set", "gate.0.min=0.3")
        alphas.append(next(v.alpha for v in outcome.report.verdicts if v.candidate == "merged"))
    assert alphas == [pytest.approx(spent(0.05, k)) for k in (1, 2, 3)]
    assert "was tested at alpha 0.0034" in outcome.out
    assert math.fsum(spent(0.05, k) for k in range(1, 100_000)) <= 0.05


def test_what_was_not_judged_is_no_attempt(suite: Project) -> None:
    """An error looked at no number, and a budget carries no risk."""
    budget = '\n[[eval]]\nname = "size"\nuse = "size"\n\n[[gate]]\nid = "small"\nmetric = "size.bytes"\nmax = 5000\n'
    suite.write({"suite.toml": SPLIT.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0') + budget})
    outcome = suite.run("--candidate", str(suite.folder / "base"), "-p", "no:checks")
    assert outcome.verdict("floor") == "ERROR"
    assert outcome.verdict("small") == "PASS"
    assert ledger(suite) == []


def test_damaged_ledger_is_told(suite: Project) -> None:
    """A line that cannot be read is an attempt that is not counted, so the report says so."""
    attempts(suite, 0.6)
    path = suite.folder / "cache/attempts.jsonl"
    path.write_text(path.read_text("utf-8") + '{"half', "utf-8")  # what a kill cut off
    outcome = suite.run("--set", "train.skill=0.7")
    assert outcome.out.count("attempts.jsonl:3: cannot be read") == 1
    assert outcome.report.verdicts[-1].attempt == 2
    assert attempts(suite, 0.8) == 3


TWO = """
from dataclasses import dataclass, replace
from harness import hookimpl
from harness.testing import FakeAdapter, write_fake, _skill

@dataclass(frozen=True)
class Two(FakeAdapter):
    def check_merge(self, variant):
        pass

    def merge(self, base, adapter, out, *, variant):
        write_fake(out, _skill(adapter) - (0.3 if variant == "original" else 0.0))

def two():
    return Two()

@hookimpl
def harness_adapters():
    return {"two": two}
"""
CHOOSE = '\n[merge]\nbase = ["original", "dequantized"]\nchoose = "qa.exact_match"\n'


def test_merged_model_is_chosen_on_select_and_gated_once(suite: Project) -> None:
    """Of two merges the better one on the select rows is the candidate; the other never sees the rows that confirm."""
    text = SPLIT.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "two"') + CHOOSE
    outcome = suite.write({"suite.toml": text, "harnessfile.py": TWO}).run()
    assert outcome.code == 0
    assert [v.candidate for v in outcome.report.verdicts] == ["adapter", "merged"]
    assert "choose  by qa.exact_match on 40 select rows" in outcome.out
    assert "the merge onto the dequantized base was chosen by qa.exact_match on select rows: original 0." in outcome.out
    assert [line["candidate"] for line in ledger(suite)] == ["adapter", "merged"]
    assert outcome.report.exports[0].written


CHOICES = {
    "an eval that is not there": ('"qa.exact_match"\n', '"qb.exact_match"\n', 'no eval "qb"'),
    "a metric that is not there": ('"qa.exact_match"\n', '"qa.exact"\n', 'has no metric "exact"'),
    "no metric": ('"qa.exact_match"\n', '"qa"\n', "want EVAL.METRIC"),
    "one base": ('["original", "dequantized"]', '"original"', "needs several bases to choose from"),
    "no select split": ('\nselect = "select.jsonl"', "", "has no select split"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_mistakes_of_choosing(suite: Project, case: str) -> None:
    """A choice that cannot be made is told at collection."""
    before, after, told = CHOICES[case]
    head, _, tail = SPLIT.partition("[[gate]]")
    text = head + CHOOSE + "\n[[gate]]" + tail
    cut = text.rfind(before) if "exact_match" not in before else text.index(CHOOSE) + CHOOSE.index(before)
    text = text[:cut] + after + text[cut + len(before) :]
    outcome = suite.write({"suite.toml": text, "harnessfile.py": TWO}).run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err
