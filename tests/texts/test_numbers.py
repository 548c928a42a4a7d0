"""Numbers have the same digits in a table, in a sentence about a merge and in a verdict's reason."""

from __future__ import annotations

import math

import pytest

from harness.pipeline.conclusions import _describe_change
from harness.records.changes import Change
from harness.records.scales import OnScale
from harness.texts.numbers import format_bytes, format_metric, format_p, format_short


@pytest.mark.parametrize(
    ("value", "written", "short"),
    [
        (0.6266, "0.627", "0.627"),
        (9.0, "9.000", "9.000"),
        (-51.4717, "−51.47", "−51.47"),
        (245.0, "245", "245.00"),
        (1234.56, "1,235", "1,235"),
        (269_060_552, "269,060,552", "269,060,552"),
        (math.nan, "nan", "nan"),
        (None, "nan", "–"),
    ],
)
def test_numbers(value: float | None, written: str, short: str) -> None:
    """A metric has the digits that matter, a count all of them; in a verdict's reason a large one has fewer."""
    assert (format_metric(value), format_short(value)) == (written, short)


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0 B"), (10_000, "10 kB"), (99_940_000, "99.9 MB"), (272_600_000, "272.6 MB"), (14_966_000_000, "15 GB")],
)
def test_sizes(count: int, written: str) -> None:
    """Bytes are told in the largest unit that they fill, with three digits."""
    assert format_bytes(count) == written


@pytest.mark.parametrize(
    ("scale", "value", "written"),
    [
        ("mean", -0.30271, "−0.303"),
        ("mean", 0.000312, "+0.00031"),
        ("proportion", 0.000312, "+0.000"),
        ("perplexity", 0.0661, "+6.6%"),
        ("count", -12_345_678.0, "−12,345,678"),
        ("mean", math.nan, "+nan"),
    ],
)
def test_differences(scale: str, value: float, written: str) -> None:
    """A difference has the digits of the metric that it is of."""
    assert OnScale(scale).format_change(value) == written


def test_a_merge_is_told_with_the_digits_of_the_table() -> None:
    """What merging did to a metric has the digits of the summary's table, and its difference those of a verdict."""
    change = Change("qa", "ms", 1234.56, 2345.6, 40, 0, 40, estimate=1111.04, lower=1012.5, upper=1209.6, scale="mean")
    told = _describe_change(change, "merging")
    assert f"({format_metric(change.theirs)} to {format_metric(change.ours)}, " in told
    assert f"{OnScale('mean').format_change(1111.04)} [+1,012, +1,210])" in told


@pytest.mark.parametrize(
    ("p", "alpha", "text"),
    [
        (0.05011, 0.05, "0.0501"),
        (0.04999, 0.05, "0.05"),
        (0.05, 0.05, "0.05"),
        (0.0123, 0.05, "0.012"),
        (1e-9, 0.05, "< 0.0001"),
    ],
)
def test_a_p_value_stands_on_its_side_of_alpha(p: float, alpha: float, text: str) -> None:
    """Rounding makes no claim look proven, and none refuted."""
    assert format_p(p, alpha) == text
