"""The numbers of a verdict: of the same rows wherever they stand, and value - baseline = estimate as written."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from harness.records.claims.gate import ClaimTerms, Gate
from harness.records.figures import write_figures
from harness.records.parts.labels import LabelledRows

WORDS = Path(__file__).parents[1] / "compat/words.jsonl"
NUMBER = r"[+−]?[\d,]+(?:\.\d+)?"
DIFFERENCE = re.compile(rf"({NUMBER}) against ({NUMBER}), ({NUMBER})(?!%|[\d.])")
BETTER = Gate("g", "e.m", versus="base", worse_by_at_most=0.02)


def parse_number(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def test_values_differ_by_the_estimate() -> None:
    """For every plain difference, of any size and any width of the interval; the exact numbers are near."""
    luck = random.Random(0)
    about = ClaimTerms(BETTER, "mean")
    for _ in range(5000):
        size = 10 ** luck.uniform(-5, 6)
        value, baseline, half = size * luck.random(), size * luck.random(), size * 10 ** luck.uniform(-6, 0)
        change = value - baseline
        told = {"value": value, "baseline": baseline, "estimate": change, "lower": change - half}
        found = write_figures(about, {**told, "upper": change + half})
        assert parse_number(found.value) - parse_number(found.baseline) == parse_number(found.estimate), found
        assert abs(float(parse_number(found.estimate)) - change) <= half / 2 + 1e-9 * size, found
        assert found.estimand == ""


@pytest.mark.parametrize(
    ("estimate", "lower", "upper", "written"),
    [
        (-0.00014, -0.00093, 0.00065, ("−0.00014", "[−0.00093, +0.00065]")),
        (-0.04, -0.12, 0.06, ("−0.040", "[−0.120, +0.060]")),
        (-0.00004, -0.03, 0.03, ("+0.000", "[−0.030, +0.030]")),
        (0.5, 0.5, 0.5, ("+0.500", "[+0.500, +0.500]")),
    ],
)
def test_digits_follow_the_interval(estimate: float, lower: float, upper: float, written: tuple[str, str]) -> None:
    """Two digits of its half-width, three after the point at least; no number is minus zero."""
    told = {"estimate": estimate, "lower": lower, "upper": upper}
    found = write_figures(ClaimTerms(BETTER, "proportion"), told)
    assert (found.estimate, found.bounds) == written


@pytest.mark.parametrize("kind", ["difference", "bound"])
@pytest.mark.parametrize(
    ("lower", "upper", "written"),
    [
        (-0.02004, 0.03, "[−0.02004, +0.03000]"),
        (-0.0204, 0.03, "[−0.0204, +0.0300]"),
        (-0.02, 0.03, "[−0.020, +0.030]"),
        (-0.02 - 1e-9, 0.03, "[−0.020, +0.030]"),
    ],
)
def test_a_bound_is_not_written_as_the_limit_that_it_misses(
    kind: Any, lower: float, upper: float, written: str
) -> None:
    """An undecided verdict shows why it is one: its bound is beyond the limit, in the digits that are written."""
    told = {"estimate": 0.005, "lower": lower, "upper": upper, "limit": -0.02}
    found = write_figures(
        ClaimTerms(BETTER if kind == "difference" else Gate("g", "e.m", min=-0.02), "proportion"), told
    )
    assert found.bounds == (written if kind == "difference" else written.replace("+", ""))
    assert (found.lower == found.limit) == (abs(lower + 0.02) < 1e-6)


def test_another_estimate_is_named() -> None:
    """A capped mean, labels and a perplexity's change are no difference of the two values, and say what they are."""
    told = {"value": 5.0, "baseline": 3.0, "estimate": 1.2, "lower": 1.0, "upper": 1.4}
    about = ClaimTerms(BETTER, "mean")
    assert write_figures(replace(about, gate=replace(BETTER, cap=2.0)), told).estimand == "capped mean difference"
    assert (
        write_figures(about, told, parts={"labelled": LabelledRows(40, 60)}).estimand
        == "difference corrected by labels"
    )
    assert write_figures(about, told).estimand == "estimated difference"
    assert write_figures(replace(about, scale="perplexity"), told).estimand == "relative change"


def test_every_drawn_verdict_agrees_with_itself() -> None:
    """In the words of the 2,000 drawn cases each difference that has no name of its own is that of its values."""
    found = 0
    for line in WORDS.read_text("utf-8").splitlines():
        for text in (value for value in json.loads(line).values() if isinstance(value, str)):
            for value, baseline, estimate in DIFFERENCE.findall(text):
                assert parse_number(value) - parse_number(baseline) == parse_number(estimate), text
                found += 1
    assert found > 100
