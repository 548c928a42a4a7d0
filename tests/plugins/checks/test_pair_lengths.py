"""P3: pairs whose chosen answers are nearly always longer, or nearly always shorter."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from harness.records.findings import TrainingRow
from harness_checks.pairs import longer_is_better


@pytest.mark.parametrize(
    ("chosen", "rejected", "kinds"), [("aaaa", "b", [""]), ("a", "bbbb", ["shorter"]), ("a", "b", [])]
)
def test_both_directions_are_found(chosen: str, rejected: str, kinds: list[str]) -> None:
    """A length that tells the chosen answer is a finding, whichever is the longer one."""
    row = {"prompt": "q", "chosen": chosen, "rejected": rejected}
    found = longer_is_better([TrainingRow(i, "t", row, row) for i in range(20)])
    assert [flag.kind for flag in found] == kinds
