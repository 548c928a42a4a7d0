"""Gates that leave out rows which leak: what they say, and what leaving out rows may never do."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from harness.errors import UsageError
from harness.evaluation.checks import Checks
from harness.gates import contamination
from harness.gates.decide import decide
from harness.plugins import Provided, load_plugins
from harness.records.claims.gate import Gate
from harness.records.findings import Finding
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome, Verdict
from harness.testing import ROWS, TRAIN, CommandOutcome, Project
from tests.helpers.suites import CLEAN

METRIC = Metric("acc", "higher", "proportion")


def make_leaking_rows(*numbers: int) -> list[dict[str, Any]]:
    """Return the training rows, and these rows of the evaluation among them."""
    return [*TRAIN, *({"input": ROWS[i]["input"], "target": ROWS[i]["target"]} for i in numbers)]


@pytest.fixture
def suite(project: Project) -> Project:
    """A project whose gate leaves out five rows of sixty."""
    return project.write({"suite.toml": CLEAN, "test.jsonl": ROWS, "train.jsonl": make_leaking_rows(*range(5))})


def find_merged_verdict(outcome: CommandOutcome) -> Verdict:
    """Return the verdict on the merged model."""
    return next(v for v in outcome.report.verdicts if v.candidate == "merged")


def test_leaks_are_left_out_and_said(suite: Project) -> None:
    """The finding is a warning, the verdict tells n of m and both values, and the evidence which rows they were."""
    outcome = suite.run()
    assert outcome.code == 0
    told = [f for f in outcome.report.findings if f.severity != "note"]
    assert [(f.code, f.severity) for f in told] == [("D10-exact", "warning"), ("D29", "warning")]
    assert 'the gate ignores rows of "floor" (clean_only); better' in told[0].fix
    said = find_merged_verdict(outcome)
    leaked = said.parts["leaked"]
    assert (said.n, leaked.rows) == (55, 5)
    assert leaked.value is not None and leaked.value != said.value
    assert f"5 of 60 rows are leaked and left out (D10-exact 5); with them {leaked.value:.4g}" in said.why
    evidence = suite.folder / "exports/fake/evidence"
    locked = json.loads((evidence / "suite.lock.json").read_text("utf-8"))["left_out"]["qa"]
    assert (locked["rows"], locked["of"], len(locked["sha256"])) == (5, 60, 64)
    assert json.loads((evidence / "gates.json").read_text("utf-8"))[0]["parts"]["leaked"]["rows"] == 5


def test_a_gate_on_all_rows_keeps_the_error(suite: Project) -> None:
    """One gate on the same rows without the option, and the leak stops the run before anything is measured."""
    other = '[[gate]]\nid = "all"\nmetric = "qa.exact_match"\nmin = 0.4\n\n[[export]]'
    outcome = suite.write({"suite.toml": CLEAN.replace("[[export]]", other)}).run()
    assert outcome.code == 4
    assert [f.severity for f in outcome.report.findings if f.code == "D10-exact"] == ["error"]


def test_ignoring_the_finding_readmits_no_row(suite: Project) -> None:
    """A flag of the command line does not choose a gate's rows."""
    outcome = suite.run("--ignore", "D10")
    assert (outcome.code, find_merged_verdict(outcome).parts["leaked"].rows) == (0, 5)


def test_most_rows_are_an_error(suite: Project) -> None:
    """More than half left out, and there is no verdict on the rest."""
    outcome = suite.write({"train.jsonl": make_leaking_rows(*range(31))}).run()
    assert outcome.code == 6
    assert (
        "31 of 60 rows are leaked: the rest is a different evaluation (D10-exact 31)"
        in find_merged_verdict(outcome).why
    )
    assert find_merged_verdict(outcome).parts["leaked"].rows == 31
    assert not (suite.folder / "exports").exists()


def test_all_rows_are_an_error(suite: Project) -> None:
    """Where every row leaks no row is left, and nothing passes."""
    outcome = suite.write({"train.jsonl": make_leaking_rows(*range(60))}).run()
    assert (outcome.code, find_merged_verdict(outcome).outcome) == (6, "ERROR")


def test_no_leak_is_said_too(suite: Project) -> None:
    """A clean evaluation is judged on all its rows, and the verdict says that leaks were looked for."""
    outcome = suite.write({"train.jsonl": TRAIN}).run()
    assert (outcome.code, find_merged_verdict(outcome).parts["leaked"].rows) == (0, 0)
    assert find_merged_verdict(outcome).why.endswith("none of 60 rows is leaked")


def test_early_stopping_leaves_out_the_same_rows(suite: Project) -> None:
    """Rows that leak decide nothing where a gate is decided row by row."""
    early = CLEAN.replace('data = "test.jsonl"', 'data = "test.jsonl"\nstop = "early"')
    more = [{**row, "id": f"{row['id']}-{n}", "input": f"{n} {row['input']}"} for n in range(2) for row in ROWS]
    more = [*ROWS[:5], *more]
    said = find_merged_verdict(suite.write({"suite.toml": early, "test.jsonl": more}).run())
    assert (said.outcome, said.parts["leaked"].rows) == ("PASS", 5)
    assert 0 < said.n <= 64


MISTAKES = {
    "failures counted": (
        "min = 0.5",
        "max_failures = 3",
        '"max_failures" counts over all rows, leaked ones included; remove "clean_only"',
    ),
    "nothing trained": (
        '[train]\nuse = "fake"\ndata = "train.jsonl"',
        '[candidate]\nmerged = "good"',
        "trains nothing",
    ),
    "no rows": ('data = "test.jsonl"\nslices = ["kind"]', "", '"exact_match" has none'),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_clean_is_a_mistake(suite: Project, case: str) -> None:
    """Told with a way out before anything runs: exit 4."""
    old, new, wanted = MISTAKES[case]
    outcome = suite.write({"suite.toml": CLEAN.replace(old, new)}).run()
    assert (outcome.code, wanted in outcome.err) == (4, True), outcome.err


def test_without_the_harness_own_check_there_is_no_clean_row(suite: Project) -> None:
    """Blocking the check is a mistake, with and without another of its code; nor can a kind be forged."""
    told = "clean_only: needs the harness's own check D10, which is blocked; remove -p no:checks"
    assert told in suite.run("-p", "no:checks").err
    forged = (
        "from harness import checker, hookimpl\n\n@checker(leaks=True)\ndef forged(rows):\n    return ()\n\n\n"
        '@hookimpl\ndef harness_checks():\n    return {"D10": forged}\n'
    )
    suite.write({"harnessfile.py": forged})
    assert told in suite.run("-p", "no:checks").err
    plugins = load_plugins(None)
    plugins.provided["check", "D10-exact"] = Provided("check", "D10-exact", "mine", lambda rows: ())
    with pytest.raises(UsageError, match='check "D10-exact" of plugin "mine": has "-" in its code, which is reserved'):
        Checks(plugins, {})


def test_unknown_leaks_are_an_error() -> None:
    """A check that crashed, or said something that has no rows, leaves no row clean."""
    for flag in (Finding("warning", "crashed", code="D10-crashed"), Finding("error", "?", code="D10")):
        assert contamination.collect_leaks([flag]) is None
    asked: list[Collection[str]] = []
    gate = Gate("g", "qa.acc", min=0.5, clean_only=True)
    said = contamination.decide_without_leaks(gate, [Sample("a")], None, asked.append, name="merged", alpha=0.05)  # type: ignore[arg-type]
    assert (said.outcome, asked) == (Outcome.ERROR, [])


def test_notes_leave_out_nothing() -> None:
    """Clusters that the split was never by are told in a note."""
    flags = [
        Finding("note", "", rows={"qa": ["1"]}, code="D10-group"),
        Finding("warning", "", rows={"qa": ["2"]}, code="D10-near"),
    ]
    assert contamination.collect_leaks(flags) == {"qa": {"2": "D10-near"}}


def put(
    gate: Gate, right: Sequence[bool], leaks: Collection[int], kinds: str = "a", idle: Collection[int] = ()
) -> Verdict:
    """Judge a gate on rows of which these are right, these leak and these do not count.

    The kind of row i is kinds[i % len(kinds)].
    """
    samples = [Sample(str(i), row={"kind": kinds[i % len(kinds)]}) for i in range(len(right))]
    scores = tuple(Score(str(i), {"acc": float(r)}, float(i not in idle)) for i, r in enumerate(right))
    result = Result("merged", "qa", scores, {}, "d")
    ask = partial(decide, gate, METRIC, result, None, samples, 0.05, name="merged")
    told = {"qa": {str(i): "D10-exact" for i in leaks}}
    return contamination.decide_without_leaks(gate, samples, told, lambda w: ask(without=w), name="merged", alpha=0.05)


FLOOR = Gate("floor", "qa.acc", min=0.8, clean_only=True)


def test_leaks_that_carry_the_score_are_seen_through() -> None:
    """What passes by rows that were trained on does not pass without them."""
    right = [True] * 80 + [i % 4 > 0 for i in range(120)]
    assert put(FLOOR, right, ()).outcome is Outcome.PASS
    assert put(FLOOR, right, range(80)).outcome is Outcome.INCONCLUSIVE


def test_training_on_the_rows_one_fails_proves_nothing() -> None:
    """Leaving out turns no FAIL into a PASS: it is INCONCLUSIVE, and says why."""
    right = [False] * 90 + [True] * 110
    said = put(FLOOR, right, range(90))
    assert said.outcome is Outcome.INCONCLUSIVE
    assert "leaving out rows cannot prove it" in said.why
    assert said.p_pass is not None and said.p_pass > 0.05


def test_a_row_without_a_score_stays_an_error() -> None:
    """An ERROR on all rows is not mended by leaving out the row that has it."""
    samples = [Sample(str(i)) for i in range(100)]
    result = Result("merged", "qa", tuple(Score(str(i), {"acc": 1.0}) for i in range(1, 100)), {}, "d")
    ask = partial(decide, FLOOR, METRIC, result, None, samples, 0.05, name="merged")
    said = contamination.decide_without_leaks(
        FLOOR, samples, {"qa": {"0": "D10-near"}}, lambda w: ask(without=w), name="merged", alpha=0.05
    )
    assert said.outcome is Outcome.ERROR


def test_slices_are_not_emptied_or_made_alarms() -> None:
    """A slice of which most is left out, or which is too small only by that, is an ERROR with its name."""
    gate = replace(FLOOR, slice="kind=*", min_n=60)
    right = [True] * 140
    assert put(gate, right, range(0, 10), "ab").outcome is Outcome.PASS
    small = put(gate, right, range(0, 24, 2), "ab")
    assert (small.outcome, small.why) == (
        Outcome.ERROR,
        "kind=a: 12 of 70 rows are leaked; 58 are left, fewer than min_n = 60 (D10-exact 12)",
    )
    fewer = put(gate, right, range(0, 8, 2), "ab", idle=range(100, 116, 2))  # 62 of 70 count, 58 of the clean ones
    assert fewer.outcome is Outcome.ERROR
    assert "kind=a: without the leaked rows fewer than min_n = 60 of its rows are left" in fewer.why
    emptied = put(gate, right, range(0, 140, 2), "ab")
    assert (emptied.outcome, emptied.why) == (
        Outcome.ERROR,
        "kind=a: 70 of 70 rows are leaked: the rest is a different evaluation (D10-exact 70)",
    )


@pytest.mark.slow
def test_rows_to_choose_by_are_no_leaks_of_themselves(suite: Project) -> None:
    """With --select the select split is evaluated, and compared with the training rows alone."""
    chosen = [{"id": f"s{i}", "input": f"choose {i} say s{i}", "target": f"s{i}", "kind": "a"} for i in range(60)]
    split = CLEAN.replace('data = "test.jsonl"', 'data = "test.jsonl"\nselect = "select.jsonl"')
    suite.write({"suite.toml": split, "select.jsonl": chosen})
    outcome = suite.run("--select")
    assert (outcome.code, find_merged_verdict(outcome).parts["leaked"].rows) == (6, 0)
    train = [*TRAIN, *({"input": r["input"], "target": r["target"]} for r in chosen[:3])]
    outcome = suite.write({"train.jsonl": train}).run("--select")
    assert (outcome.code, find_merged_verdict(outcome).parts["leaked"].rows) == (6, 3)
    outcome = suite.run()  # a candidate chosen on rows it was trained on is no matter of the gate's rows
    assert (outcome.code, [f.severity for f in outcome.report.findings if f.code == "D10-exact"]) == (4, ["error"])
