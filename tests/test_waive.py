"""Waivers, seen from outside: who, why, until when, and in every output."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from harness.gate import Gate
from harness.testing import Outcome, Project
from harness.waive import Waiver
from tests.test_suite import ROWS, SUITE, TRAIN

TODAY = datetime.now(UTC).date()
SOON = (TODAY + timedelta(days=7)).isoformat()


@pytest.fixture
def suite(project: Project) -> Project:
    """A project whose floor is too high for what it trains."""
    return project.write(
        {"suite.toml": SUITE.replace("min = 0.5", "min = 0.99"), "test.jsonl": ROWS, "train.jsonl": TRAIN}
    )


def waive(suite: Project, gate: str = "floor", *flags: str, until: str = SOON, reason: str = "known rows") -> Outcome:
    return suite.harness("waive", gate, "--reason", reason, "--until", until, "--by", "ada", *flags)


def test_waived_gate_ships_and_is_in_every_output(suite: Project) -> None:
    """A waiver in force lets the candidate ship with exit 0; the verdict stays, and everybody is told."""
    assert suite.run().code == 1
    assert waive(suite).code == 0
    outcome = suite.run("--junit-xml", str(suite.folder / "ci.xml"))
    says = f"waived by ada until {SOON}: known rows"
    assert outcome.code == 0
    assert outcome.verdict("floor") == "FAIL"
    assert outcome.out.count(says) == 4  # two candidates, each where it is judged and in the summary
    assert "2 FAIL (2 waived)" in outcome.out
    evidence = suite.folder / "exports/fake/evidence"
    assert json.loads((evidence / "gates.json").read_text("utf-8"))[0]["waiver"]["by"] == "ada"
    assert json.loads((evidence / "report.json").read_text("utf-8"))["waivers"][0]["reason"] == "known rows"
    assert f"FAIL, {says}" in (suite.folder / "exports/fake/README.md").read_text("utf-8")
    assert says in (suite.folder / "ci.xml").read_text("utf-8")
    assert outcome.report.waivers == [
        Waiver("floor", "qa.exact_match at least 0.99", "known rows", SOON, "ada", datetime.now(UTC).date().isoformat())
    ]
    (shown,) = {
        line for line in suite.harness("show", str(outcome.report.folder)).out.splitlines() if "waived)" in line
    }
    assert "2 FAIL (2 waived)" in shown


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
    }
    return json.dumps({**made, **changes}) + "\n"


VOID = {
    "expired": ({"until": "2026-01-31"}, "expired on 2026-01-31"),
    "for another claim": (
        {"claim": "qa.exact_match at least 0.6"},
        'is for another claim, "qa.exact_match at least 0.6"',
    ),
    "for no gate": ({"gate": "flor"}, "is for no gate of this suite"),
}


@pytest.mark.parametrize("case", VOID)
def test_void_waivers_do_not_count_and_say_so(suite: Project, case: str) -> None:
    """An expired waiver, one for what the gate used to claim, one for no gate: told before training, and void."""
    changes, told = VOID[case]
    suite.write({"suite.waivers.jsonl": line(**changes)})
    outcome = suite.run()
    assert outcome.code == 1
    assert f"{told}, and does not count" in outcome.out
    assert outcome.out.index(told) < outcome.out.index("\ntrain")
    if case != "for no gate":
        assert f"its waiver {told}" in next(v.why for v in outcome.report.verdicts)


@pytest.mark.parametrize("text", ["not json", "[]", line(until="soon"), json.dumps({"gate": "floor"})])
def test_broken_waiver_file_is_a_mistake(suite: Project, text: str) -> None:
    """A file that cannot be read is told by its line, and nothing is measured."""
    suite.write({"suite.waivers.jsonl": line() + text})
    outcome = suite.run()
    assert outcome.code == 4
    assert "suite.waivers.jsonl:2: is no waiver" in outcome.err


MISTAKES = {
    "an unknown gate": (["flor"], {}, 'no suite here or in suites/ has a gate "flor"; did you mean "floor"?'),
    "an unknown gate of a suite": (["flor", "--suite", "suite.toml"], {}, 'no gate "flor"; did you mean "floor"?'),
    "a date that is past": (["floor"], {"until": "2020-01-01"}, "is past"),
    "a date that is none": (["floor"], {"until": "soon"}, "want a date such as"),
    "no reason": (["floor"], {"reason": " "}, "say why the gate may be broken"),
    "a gate that only warns": (["soft"], {}, 'gate "soft" does not block by itself: it only warns'),
    "no such suite": (["floor", "--suite", "s.toml"], {}, "s.toml: cannot be read"),
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


def test_waiver_counts_on_its_last_day() -> None:
    """`until` is the last day in force, not the first without."""
    gate = Gate("floor", "qa.exact_match", min=0.5)
    waiver = Waiver("floor", "qa.exact_match at least 0.5", "r", "2026-03-01", "ada", "2026-01-01")
    assert waiver.void(gate, date(2026, 3, 1)) == ""
    assert waiver.void(gate, date(2026, 3, 2)) == "expired on 2026-03-01"
