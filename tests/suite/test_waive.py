"""Waivers, seen from outside: who, why, until when, and in every output."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from harness.gates.waivers import describe_claim
from harness.records.waivers import Waiver
from harness.suite.reader import read_suite
from harness.suite.waivers import (
    active_waiver,
    claim_digest,
    find_suite_waiver_error,
    invalid_waivers,
    read_waivers,
)
from harness.testing import ROWS, SUITE, TRAIN, CommandOutcome, Project

TODAY = datetime.now(UTC).date()
SOON = (TODAY + timedelta(days=7)).isoformat()


@pytest.fixture
def suite(project: Project) -> Project:
    """A project whose floor is too high for what it trains."""
    return project.write(
        {"suite.toml": SUITE.replace("min = 0.5", "min = 0.99"), "test.jsonl": ROWS, "train.jsonl": TRAIN}
    )


def waive(
    suite: Project, gate: str = "floor", *flags: str, until: str = SOON, reason: str = "known rows"
) -> CommandOutcome:
    return suite.harness("waive", gate, "--reason", reason, "--until", until, "--by", "ada", *flags)


@pytest.mark.slow
def test_waived_gate_ships_and_is_in_every_output(suite: Project) -> None:
    """A waiver in force lets the candidate ship with exit 0; the verdict stays, and everybody is told."""
    assert suite.run().code == 1
    assert waive(suite).code == 0
    outcome = suite.run("--junit-xml", str(suite.folder / "ci.xml"))
    says = f"waived by ada until {SOON}: known rows"
    assert outcome.code == 0
    assert outcome.verdict("floor") == "FAIL"
    # two candidates, each where it is judged and in the summary; and a rule that changed since the run before
    assert outcome.out.count(says) == 5
    assert "2 FAIL (waived)" in outcome.out
    last = outcome.out[outcome.out.index("may ship: ") :]
    assert f"floor on merged, {says}: qa.exact_match at least 0.99: " in last  # what ships although it failed
    summary = suite.harness("report", outcome.report.folder, "--markdown").out
    assert summary.index(f"floor on merged, {says}") < summary.index("| gate |")
    evidence = suite.folder / "exports/fake/evidence"
    assert json.loads((evidence / "gates.json").read_text("utf-8"))[0]["parts"]["waived"]["line"]["by"] == "ada"
    assert json.loads((evidence / "report.json").read_text("utf-8"))["waivers"][0]["reason"] == "known rows"
    assert f"FAIL, {says}" in (suite.folder / "exports/fake/README.md").read_text("utf-8")
    assert says in (suite.folder / "ci.xml").read_text("utf-8")
    (kept,) = outcome.report.waivers
    today = datetime.now(UTC).date().isoformat()
    assert kept == Waiver("floor", "qa.exact_match at least 0.99", "known rows", SOON, "ada", today, kept.digest)
    (shown,) = {
        line for line in suite.harness("show", str(outcome.report.folder)).out.splitlines() if "waived)" in line
    }
    assert "2 FAIL (waived)" in shown


def test_waiver_that_was_not_needed_is_told(suite: Project) -> None:
    """A gate that passes keeps its PASS, and the report says that its waiver can go."""
    waive(suite.write({"suite.toml": SUITE}))
    outcome = suite.run()
    assert outcome.code == 0
    assert 'the waiver of ada for "floor" was not needed' in outcome.out


def test_waiver_of_one_gate_covers_no_other(suite: Project) -> None:
    """The other gates must pass as ever."""
    text = SUITE.replace("min = 0.5", "min = 0.99") + '\n[[gate]]\nid = "too"\nmetric = "qa.exact_match"\nmin = 0.98\n'
    suite.write({"suite.toml": text})
    waive(suite)
    outcome = suite.run()
    assert outcome.code == 1
    assert not (suite.folder / "exports").exists()


def test_waiver_does_not_stand_in_for_a_verdict(suite: Project) -> None:
    """A gate that was not judged is not waived: a part of a run ships nothing."""
    waive(suite)
    outcome = suite.run("-k", "adapter")
    assert outcome.code == 6
    assert not (suite.folder / "exports").exists()


@pytest.mark.slow
def test_waived_gate_does_not_satisfy_requires(suite: Project) -> None:
    """What requires a waived gate is still an error, and wants a waiver of its own."""
    text = SUITE.replace("min = 0.5", "min = 0.99")
    text += '\n[[gate]]\nid = "after"\nmetric = "qa.exact_match"\nmin = 0.1\nrequires = ["floor"]\n'
    suite.write({"suite.toml": text})
    waive(suite)
    assert suite.run().code == 6
    waive(suite, "after")
    assert suite.run().code == 0


def line(**changes: str) -> str:
    made = {
        "gate": "floor",
        "claim": "qa.exact_match at least 0.99",
        "reason": "r",
        "until": SOON,
        "by": "ada",
        "added": "2026-01-01",
        "digest": "",
    }
    return json.dumps({**made, **changes}) + "\n"


VOID = {
    "expired": ({"until": "2026-01-31"}, "expired on 2026-01-31"),
    "for another claim": (
        {"claim": "qa.exact_match at least 0.6"},
        'is for another claim, "qa.exact_match at least 0.6"',
    ),
    "for no gate": ({"gate": "flor"}, "is for a gate that this suite does not have"),
}


@pytest.mark.parametrize("case", VOID)
def test_void_waivers_do_not_count_and_say_so(suite: Project, case: str) -> None:
    """An expired waiver, one for what the gate used to claim, one for no gate: told before training, and void."""
    changes, told = VOID[case]
    suite.write({"suite.waivers.jsonl": line(**changes)})
    outcome = suite.run()
    assert outcome.code == 1
    assert f'" {told}, so it does not count' in outcome.out
    assert outcome.out.index(told) < outcome.out.index("\ntrain")
    if case != "for no gate":
        assert f"its waiver {told}" in next(v.why for v in outcome.report.verdicts)


@pytest.mark.parametrize("text", ["not json", "[]", line(until="soon"), json.dumps({"gate": "floor"})])
def test_broken_waiver_file_is_a_mistake(suite: Project, text: str) -> None:
    """A file that cannot be read is told by its line, and nothing is measured."""
    suite.write({"suite.waivers.jsonl": line() + text})
    outcome = suite.run()
    assert outcome.code == 4
    assert "suite.waivers.jsonl:2: is not a waiver" in outcome.err


MISTAKES = {
    "an unknown gate": (["flor"], {}, 'no suite here or in suites/ has a gate "flor"; did you mean "floor"?'),
    "an unknown gate of a suite": (["flor", "--suite", "suite.toml"], {}, 'no gate "flor"; did you mean "floor"?'),
    "a date that is past": (["floor"], {"until": "2020-01-01"}, "in the past"),
    "a date that is none": (["floor"], {"until": "soon"}, '": is not a date; write one such as'),
    "no reason": (["floor"], {"reason": " "}, "give the reason for the waiver"),
    "a gate that only warns": (["soft"], {}, 'gate "soft" does not block: it only warns'),
    "no such suite": (["floor", "--suite", "s.toml"], {}, "s.toml: cannot be read:"),
    "two suites": (["floor"], {"twice": True}, "choose one with --suite"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_of_waive(suite: Project, case: str) -> None:
    """Each is one line and exit 4, and nothing is written."""
    words, given, told = MISTAKES[case]
    text = SUITE + '\n[[gate]]\nid = "soft"\nmetric = "qa.exact_match"\nmin = 0.1\nseverity = "warn"\n'
    suite.write({"suite.toml": text, **({"suites/other.toml": text} if given.pop("twice", None) else {})})
    outcome = waive(suite, *words, **given)  # type: ignore[arg-type]
    assert outcome.code == 4
    assert told in outcome.err
    assert not list(suite.folder.rglob("*.waivers.jsonl"))


def test_waiver_counts_on_its_last_day(suite: Project) -> None:
    """`until` is the last day in force, not the first without."""
    read = read_suite(suite.folder / "suite.toml")
    (gate,) = read.gates
    waiver = Waiver("floor", describe_claim(gate), "r", "2026-03-01", "ada", "2026-01-01", claim_digest(gate, read))
    assert find_suite_waiver_error(waiver, gate, read, date(2026, 3, 1)) == ""
    assert find_suite_waiver_error(waiver, gate, read, date(2026, 3, 2)) == "expired on 2026-03-01"


GROUP = """
[[eval]]
name = "other"
use = "contains"
data = "test.jsonl"

[[gate]]
id = "first"
metric = "qa.exact_match"
min = 0.99

[[gate]]
id = "second"
metric = "other.contains"
versus = "few"
better_by = 0.7

[subject.few]
shots = 3
"""
CHANGED = {
    "alpha": ("floor", ["gate.0.alpha=0.01"]),
    "the suite's alpha": ("floor", ["suite.alpha=0.04"]),
    "on": ("floor", ['gate.0.on=["merged"]']),
    "min_n": ("floor", ["gate.0.min_n=20"]),
    "requires": ("floor", ['gate.0.requires=["first"]']),
    "a slice": ("floor", ['gate.0.slice="kind=a"']),
    "the eval's data": ("floor", ['eval.0.data="train.jsonl"', "eval.0.slices=[]"]),
    "the eval's limit": ("floor", ["eval.0.limit=50"]),
    "the eval's cluster": ("floor", ['eval.0.cluster="kind"']),
    "an option of the eval": ("floor", ["eval.0.max_new_tokens=31"]),
    "the evaluator": ("floor", ['eval.0.use="choices"', 'gate.0.metric="qa.acc"']),
    "the baseline": ("second", ["subject.few.shots=4"]),
    "nothing": ("second", []),
}


@pytest.mark.parametrize("case", CHANGED)
def test_waiver_is_for_a_whole_claim(suite: Project, case: str) -> None:
    """Whatever is changed of what a gate claims, its members and their evals too, makes its waiver void, as is said."""
    gate, changes = CHANGED[case]
    suite.write({"suite.toml": SUITE.replace("min = 0.5", "min = 0.99") + GROUP})
    assert waive(suite, gate).code == 0
    (kept,) = read_waivers(suite.folder / "suite.toml")
    now = read_suite(suite.folder / "suite.toml", changes)
    told = invalid_waivers([kept], now, TODAY)
    assert len(told) == (case != "nothing")
    assert all("is for another claim" in line and "does not count" in line for line in told)
    assert (active_waiver([kept], next(g for g in now.gates if g.id == gate), now, TODAY) is None) == bool(told)


def test_waiver_without_a_digest_is_none(suite: Project) -> None:
    """A line that does not say which whole claim it is for is told before anything is run."""
    suite.write({"suite.waivers.jsonl": line().replace(', "digest": ""', "")})
    outcome = suite.run()
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert 'suite.waivers.jsonl:1: is not a waiver; it needs the texts "gate", "claim",' in outcome.err


def test_waivers_of_a_renamed_suite_are_told(suite: Project) -> None:
    """They lie beside a name that no suite has any more, and would be left behind without a word."""
    suite.write({"other.waivers.jsonl": line(), "kept.toml": SUITE, "kept.waivers.jsonl": line()})
    told = [
        line
        for line in suite.run().report.warnings
        if (": there is no suite of this name, so these waivers do not count; rename the file if the suite was renamed")
        in line
    ]
    assert [line.partition(":")[0].rpartition("/")[2] for line in told] == ["other.waivers.jsonl"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xff\xfe\n", "is not UTF-8: invalid start byte at byte 0"),
        (b'{"gate": ' + b"9" * 5000 + b"}", ":1: is not a waiver"),
        (b"[" * 100_000, ":1: is not a waiver"),
        (b'{"gate": "\xe2\x80\xa8"}\n\n[]', ":3: is not a waiver"),
    ],
)
def test_strange_waiver_files_are_one_line(suite: Project, data: bytes, told: str) -> None:
    """What cannot be read is told by its place, exit 4."""
    (suite.folder / "suite.waivers.jsonl").write_bytes(data)
    outcome = suite.run()
    assert outcome.code == 4
    assert told in outcome.err


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\n"])
def test_separators_in_a_name_hide_nothing(suite: Project, separator: str) -> None:
    """A name and a reason are one line each, whatever separates lines elsewhere."""
    outcome = suite.harness(
        "waive", "floor", "--reason", f"a{separator}b", "--until", SOON, "--by", f"ada{separator}lovelace"
    )
    assert outcome.code == 0
    (kept,) = read_waivers(suite.folder / "suite.toml")
    assert (kept.by, kept.reason) == ("ada lovelace", "a b")
    assert suite.run().code == 0


@pytest.mark.parametrize(("by", "told"), [(" \u2028", "--by: is empty"), ("a\udcff", "--by: is not valid text;")])
def test_names_that_are_none(suite: Project, by: str, told: str) -> None:
    """Somebody answers for a waiver, by a name that can be written."""
    outcome = suite.harness("waive", "floor", "--reason", "r", "--until", SOON, "--by", by)
    assert outcome.code == 4
    assert told in outcome.err
    assert not list(suite.folder.rglob("*.waivers.jsonl"))
