"""Gates that name each other, seen from outside: requires, slices, and what collection says of mistakes."""

from __future__ import annotations

import pytest

from harness.testing import ROWS, SUITE, Project

SECOND = '\n[[eval]]\nname = "other"\nuse = "contains"\ndata = "test.jsonl"\n'


def make_gated_suite(*tables: str) -> str:
    """Return the suite with these gates, on two evals; "floor" is the first."""
    head, _, tail = SUITE.partition("[[export]]")
    return (
        head
        + SECOND
        + '\n[[eval]]\nname = "size"\nuse = "size"\n'
        + "".join(f"\n[[gate]]\n{t.strip()}\n" for t in tables)
        + "\n[[export]]"
        + tail
    )


HIGH = 'id = "high"\nmetric = "other.contains"\nmin = 0.99'
AFTER = 'id = "after"\nmetric = "qa.exact_match"\nmin = 0.1\nrequires = ["high"]'
BETTER = 'id = "better"\nmetric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.0'


def test_gate_whose_required_gate_did_not_pass_is_an_error(suite: Project) -> None:
    """A gate waits for the gates it requires, also on a later eval, and says which of them is not a PASS."""
    outcome = suite.write({"suite.toml": make_gated_suite(AFTER, HIGH + '\nseverity = "warn"')}).run()
    assert outcome.code == 6
    assert outcome.verdict("high", "adapter") == "FAIL"
    assert outcome.verdict("after", "adapter") == "ERROR"
    assert 'requires "high", which is FAIL on adapter' in outcome.out


@pytest.mark.slow
def test_gate_is_judged_when_what_it_requires_passed(suite: Project) -> None:
    """On the same candidate, and whatever the order of the file."""
    outcome = suite.write({"suite.toml": make_gated_suite(AFTER, HIGH.replace("0.99", "0.5"))}).run()
    assert outcome.code == 0
    assert outcome.verdict("after") == "PASS"
    listed = suite.run("--collect-only", "-k", "merged and qa").out
    assert "merged::other" in listed


MISTAKES = {
    "an unknown gate": ([AFTER], 'requires names "high", which is not a gate'),
    "a metric in place of a gate": (
        [AFTER.replace('"high"', '"qa.exact_match"')],
        "; list ids of gates only",
    ),
    "a circle": ([AFTER, HIGH + '\nrequires = ["after"]'], "requires form a cycle: after -> high -> after"),
    "itself": ([HIGH + '\nrequires = ["high"]'], "requires names the gate itself"),
    "another candidate": ([AFTER, HIGH + '\non = ["merged"]'], '", which is not evaluated on adapter; check its "on"'),
    "more failures than rows": (
        ['id = "x"\nmetric = "qa.exact_match"\nmax_failures = 60'],
        "but there are only 60 rows",
    ),
    "a percentage": (['id = "x"\nmetric = "qa.exact_match"\nmin = 80'], "did you mean 0.8?"),
    "a text margin": (['id = "x"\nmetric = "qa.exact_match"\nversus = "base"\nbetter_by = "2 pt"'], "a share such as"),
    "a slice that is not there": (
        ['id = "x"\nmetric = "qa.exact_match"\nmin = 0.5\nslice = ["kind=a", "kind=c"]'],
        'slice "kind=c" has no rows',
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_between_gates_are_told_at_collection(suite: Project, case: str) -> None:
    """Each is one line with the gate's name and exit 4, before anything is measured."""
    tables, told = MISTAKES[case]
    outcome = suite.write({"suite.toml": make_gated_suite(*tables)}).run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err
    assert all(line.startswith("error: ") and 'gate "' in line for line in outcome.err.splitlines())


def test_bound_on_the_wrong_side_is_warned_of(suite: Project) -> None:
    """A ceiling for a metric of which more is better is allowed, and probably not meant."""
    outcome = suite.write({"suite.toml": make_gated_suite(HIGH.replace("min", "max"))}).run("--collect-only")
    assert outcome.code == 0
    assert ': max bounds "contains", for which more is better' in outcome.err


@pytest.mark.slow
def test_slices_that_cannot_prove_anything_are_warned_of(suite: Project) -> None:
    """Sixty rows in two slices are alarms only, which prove nothing: collection says so, and the run ends with 6."""
    sliced = 'id = "x"\nmetric = "qa.exact_match"\nmin = 0.5\nslice = "kind=*"'
    outcome = suite.write({"suite.toml": make_gated_suite(sliced)}).run()
    assert (outcome.code, outcome.verdict("x")) == (6, "INCONCLUSIVE")
    assert "no slice has min_n = 60 rows, so the gate cannot pass" in outcome.out
    assert "2 slices below 60 rows: no significant harm" in outcome.out
    checked = suite.harness("check", "suite.toml").out
    assert "so the gate cannot pass" in checked and ": 0 errors, 3 warnings, " in checked


@pytest.mark.slow
def test_failing_slice_is_shown(suite: Project) -> None:
    """The slice that drives a failure stands in the report with its numbers; the others are counted."""
    rows = [
        {"id": f"{kind}{i}", "input": f"question {i} say {kind}{i}", "target": f"{kind}{i}", "kind": kind}
        for kind in "ab"
        for i in range(80)
    ]
    wrong = [row | {"target": "x"} if row["kind"] == "b" else row for row in rows]
    sliced = 'id = "x"\nmetric = "qa.exact_match"\nmin = 0.5\nslice = "kind=*"'
    outcome = suite.write({"suite.toml": make_gated_suite(sliced), "test.jsonl": wrong}).run()
    assert outcome.code == 1
    assert "\n                 kind=b: 0.000" in outcome.out
    assert "2 slices: 1 PASS, 1 FAIL" in outcome.out


@pytest.mark.slow
def test_few_clusters_are_told_before_and_after(suite: Project) -> None:
    """Once a gate at collection, whatever the candidates, and in every verdict that rests on them."""
    rows = [row | {"of": f"d{i % 12}"} for i, row in enumerate(ROWS)]
    suite.write(
        {"test.jsonl": rows, "suite.toml": SUITE.replace('slices = ["kind"]', 'slices = ["kind"]\ncluster = "of"')}
    )
    told = 'gate "floor": there are only 12 clusters; fewer than 20 prove little'
    assert suite.run("--collect-only").err.count(told) == 1
    outcome = suite.run()
    assert outcome.out.count("n=60 in few clusters (12)") == 1  # the adapter's, which does not ship, unfolds with -v
    assert suite.run("-v").out.count("n=60 in few clusters (12), cluster t") >= 2
    assert sum(told in w for w in outcome.report.warnings) == 1


@pytest.mark.slow
def test_cluster_sizes_that_tell_of_the_outcome_are_a_warning(suite: Project) -> None:
    """A gate that passes by its long documents alone is a warning of the run, with the other mean."""
    long = [row | {"of": f"long {i % 20}"} for i, row in enumerate(ROWS * 4)]
    short = [row | {"of": f"short {i}", "target": "x"} for i, row in enumerate(ROWS[:30])]
    rows = [row | {"id": str(i), "input": f"{i} {row['input']}"} for i, row in enumerate([*long, *short])]
    text = SUITE.replace('slices = ["kind"]', 'slices = ["kind"]\ncluster = "of"').replace("min = 0.5", "min = 0.6")
    outcome = suite.write({"test.jsonl": rows, "suite.toml": text}).run("--set", "train.skill=1.0")
    (told,) = (w for w in outcome.report.warnings if w.startswith('gate "floor" on merged'))
    assert told == ('gate "floor" on merged: cluster size is related to the outcome: the mean over clusters is 0.400')
    assert outcome.verdict("floor") == "PASS"
    assert f"warning: {told}" in outcome.out
