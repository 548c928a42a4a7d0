"""Parts of a verdict, and conditions of a gate."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest

from harness.records.claims.gate import Gate
from harness.records.outcomes import Outcome
from harness.records.parts import CONDITIONS, PARTS, ConditionKeys
from harness.records.parts.attempts import CountedAttempt
from harness.records.parts.cap import Uncapped
from harness.records.parts.leaked import LeakedRows
from harness.records.parts.part import Part
from harness.records.parts.truncated import TruncatedAnswers
from harness.records.verdict_text import complete
from harness.records.verdicts import Verdict
from harness.reports.report_json import from_json

PLAIN = Verdict("floor", "merged", Outcome.PASS, "", "qa.acc", "at least 0.5", True, n=60, method="t", estimate=0.8)


def test_every_condition_and_every_part_is_registered() -> None:
    """A key, a condition or a part in a file of its own is no use before it is in its list."""
    assert {condition.keys for condition in CONDITIONS} == set(ConditionKeys.__bases__)
    assert {f.name for f in fields(ConditionKeys)} <= {f.name for f in fields(Gate)}
    assert set(PARTS) == set(Part.__subclasses__()) and len({part.name for part in PARTS}) == len(PARTS)


def test_no_two_parts_of_a_slot_have_one_order() -> None:
    """Sentences and effects come in an order that no list or file gives."""
    places = [(part.slot, part.order) for part in PARTS if part.of_result]
    assert len(set(places)) == len(places)


def test_a_verdict_of_parts_is_read_again() -> None:
    """Parts go to JSON and back, and what is no part of ours is carried along if it is not critical."""
    verdict = complete(PLAIN, CountedAttempt(2), Uncapped(0.9, 3), LeakedRows(2, 60, {"D10-exact": 2}, 0.7))
    data = json.loads(json.dumps(asdict(verdict)))
    assert from_json(Verdict, data, "it") == verdict
    data["parts"]["mood"] = {"critical": False, "text": "good"}
    carried = from_json(Verdict, data, "it")
    assert carried.parts["mood"] == {"critical": False, "text": "good"} and complete(carried).why == verdict.why
    assert json.loads(json.dumps(asdict(carried))) == data


@pytest.mark.parametrize(
    ("name", "part", "error"),
    [
        ("mood", {"critical": True}, 'has a part "mood" that this version of the harness does not know'),
        ("mood", {}, 'has a part "mood"'),
        ("mood", None, 'has a part "mood"'),
        ("attempt", {"critical": False, "number": 2}, '"attempt" has "critical"'),
        ("attempt", {"critical": True, "number": "2"}, '"number" is "2"'),
        ("attempt", {"critical": True, "numbers": 2}, '"attempt" has "numbers"'),
    ],
)
def test_a_part_that_cannot_be_understood_is_refused(name: str, part: object, error: str) -> None:
    """Whoever does not know a part that matters says so, and takes nothing else for it."""
    data = json.loads(json.dumps(asdict(replace(PLAIN, parts={}))))
    with pytest.raises(TypeError, match=error):
        from_json(Verdict, {**data, "parts": {name: part}}, "it")


def test_effects_come_in_one_order_and_once() -> None:
    """Whatever the order in which parts were added, and however often effects were applied."""
    truncated, leaked = TruncatedAnswers("merged", 9, 60, 0.1), LeakedRows(2, 60, {}, refuted=True)
    for parts in ((truncated, leaked), (leaked, truncated)):
        verdict = complete(PLAIN, *parts)
        assert verdict.outcome is Outcome.INCONCLUSIVE and complete(verdict) == verdict
        assert (
            verdict.why
            == "merged: 9 of 60 answers were truncated, more than the allowed share of 0.1; raise max_new_tokens"
        )
