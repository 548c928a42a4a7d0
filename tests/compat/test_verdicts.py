"""Two thousand drawn verdicts are what they were, to the last digit that machines share, and in their words."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest

from tests.compat.verdicts import CASES, HERE, made

PIECES = 8


@cache
def kept(name: str) -> list[dict[str, Any]]:
    """Read what was written once: docs/contributing says when words may be written anew."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text("utf-8").splitlines()]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal but for the rounding of another processor."""
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(PIECES))
def test_verdicts_are_what_they_were(piece: int) -> None:
    """Outcomes, numbers, and what verify and --recompute make of the evidence, true and edited; then the words."""
    for number in range(piece, CASES, PIECES):
        found = made(number)
        numbers, words = (json.loads(json.dumps(told)) for told in (found.numbers, found.words))
        assert same(kept("verdicts")[number], numbers)
        assert kept("words")[number] == words


def test_what_a_run_says_its_verifier_believes() -> None:
    """Whatever was drawn: nobody who verifies refuses what nobody changed."""
    refused = [case["case"] for case in kept("verdicts") if case["verify"][:2] != [True, True]]
    assert not refused
