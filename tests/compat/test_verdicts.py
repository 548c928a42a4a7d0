"""Two thousand drawn verdicts are what they were, to the last digit that machines share, and in their words."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from itertools import islice
from typing import Any

import pytest

from harness.release.recomputation import NEAR_BOUND
from tests.compat.verdicts import HERE, judge_and_verify_case

PIECES = 8
BOUNDS = {28: (5, 6), 6: (4, 5)}  # where lower and upper stand in what is kept of a verdict, and of a slice
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")


@cache
def read_kept_verdicts(name: str) -> list[dict[str, Any]]:
    """Read what was written once: docs/contributing says when words may be written anew."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text("utf-8").splitlines()]


def is_nearly_equal(one: Any, other: Any, near: float = 1e-9) -> bool:
    """Return whether two values are equal but for the rounding of another processor, in texts as well."""
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=near, abs_tol=1e-12)
    if isinstance(one, str) and isinstance(other, str):
        numbers, others = ([float(found) for found in NUMBER.findall(text)] for text in (one, other))
        return NUMBER.sub("#", one) == NUMBER.sub("#", other) and is_nearly_equal(numbers, others)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            is_nearly_equal(value, others, NEAR_BOUND if i in BOUNDS.get(len(one), ()) else near)
            for i, (value, others) in enumerate(zip(one, other, strict=True))
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            is_nearly_equal(value, other[key], near) for key, value in one.items()
        )
    return bool(one == other)


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(PIECES))
def test_verdicts_are_what_they_were(piece: int) -> None:
    """Outcomes, numbers, and what verify makes of the evidence, true and edited; then the words."""
    kept = zip(read_kept_verdicts("verdicts"), read_kept_verdicts("words"), strict=True)
    for numbers, words in islice(kept, piece, None, PIECES):
        found = judge_and_verify_case(numbers["case"])
        assert is_nearly_equal(numbers, json.loads(json.dumps(found.numbers)))
        assert is_nearly_equal(words, json.loads(json.dumps(found.words)))


def test_what_a_run_says_its_verifier_believes() -> None:
    """Whatever was drawn: nobody who verifies refuses what nobody changed."""
    refused = [case["case"] for case in read_kept_verdicts("verdicts") if case["verify"][0] is not True]
    assert not refused


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("the rows come to 0.12702732095499594", "the rows come to 0.1270273209549959", True),
        ("p = 1.5e-09", "p = 1.5000000000001e-09", True),
        ("the rows come to 0.127027", "the rows come to 0.127028", False),
        ("gate g1: 0.5", "gate g2: 0.5", False),
        ("200 rows", "201 rows", False),
    ],
)
def test_texts_are_compared_by_their_numbers(one: str, other: str, alike: bool) -> None:
    """Only the last digits of a fraction may differ; counts, names and words may not."""
    assert is_nearly_equal(one, other) is alike
