"""D16: targets that are longer than an answer, or have a stop string inside, and those that only look so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.records.findings import Finding
from harness.records.models import ModelRef
from harness.records.samples import Sample
from harness_checks.labels import unreachable
from harness_domain import harness_evaluators


def find_unreachable_targets(
    targets: Any, base: Path = Path("none"), use: str = "exact_match", **options: Any
) -> list[Finding]:
    """Return what is told of an evaluation with these targets."""
    samples = tuple(Sample(f"q{i}", "Where?\n", target) for i, target in enumerate(targets))
    spec = SimpleNamespace(use=use, options=options)
    task: Any = SimpleNamespace(spec=spec, function=harness_evaluators()[use], samples=samples)
    return list(unreachable({"qa": task}, ModelRef("base", str(base))))


def test_a_stop_string_inside() -> None:
    """The line has the number, the first row and the string; without the stop string nothing is told."""
    targets = ["here\n", "two\nlines", ["two\nlines", "one"], "\nthere", *["x"] * 16]
    (found,) = find_unreachable_targets(targets)
    assert found.what == (
        '1 of 20 rows of "qa" cannot be answered: the target of row "q1" contains the stop string "\\n"'
    )
    assert (found.severity, found.kind, found.rows) == ("error", "stop", {"qa": ["q1"]})
    assert find_unreachable_targets(targets, stop=[]) == []
    assert [f.severity for f in find_unreachable_targets([*targets, "x"])] == ["warning"]  # less than 5 % of the rows
    assert [f.severity for f in find_unreachable_targets(targets, use="contains")] == ["warning"]
    assert find_unreachable_targets(targets, use="numeric") == []  # the number in it is what is wanted


@pytest.mark.slow
def test_a_target_that_is_too_long(tiny_model: Path) -> None:
    """Tokens are counted without a full stop, without white space in JSON, and of the shortest of several targets."""
    (found,) = find_unreachable_targets(["12345678.", "123456789", ["123456789", "1"]], tiny_model, max_new_tokens=8)
    assert (
        found.what
        == '1 of 3 rows of "qa" cannot be answered: the target of row "q1" takes 9 tokens of max_new_tokens = 8'
    )
    assert find_unreachable_targets(['{"a": 1}'], tiny_model, use="json", max_new_tokens=7) == []
    assert [f.kind for f in find_unreachable_targets(['{"a": 1}'], tiny_model, use="json", max_new_tokens=6)] == [
        "long"
    ]
