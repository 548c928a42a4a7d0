"""`judge disputes` on rows that somebody else wrote."""

from __future__ import annotations

from typing import Any

import pytest

from harness import UsageError
from harness_judge.disputes import _list_judgments

ROW = {"id": "q", "target": "a", "resps": [["b"]]}
JUDGMENT = {"order": "candidate first", "verdict": "A", "reason": "better"}


@pytest.mark.parametrize(
    "judgments",
    [
        ["x"],
        7,
        [{"a": {"b": 1}}],
        [{"reason": "better"}],
        [{**JUDGMENT, "verdict": ["A"]}],
        [{**JUDGMENT, "reason": 7}],
    ],
)
def test_judgments_of_another_shape_are_one_line(judgments: Any) -> None:
    """The row is named, and no text is made of what is none."""
    with pytest.raises(UsageError, match=r"a row is malformed: details\.judgments"):
        _list_judgments({**ROW, "details": {"judgments": judgments}}, "a row")


@pytest.mark.parametrize("details", [None, {}, "judgments", {"probability": 1}])
def test_a_row_without_judgments_may_be_of_any_evaluation(details: Any) -> None:
    """Whose answers need not be texts."""
    assert _list_judgments({"resps": [[1.5, True]], "details": details}) == ()
