"""`multilabel`: sets of labels, in any order."""

from __future__ import annotations

import pytest

from harness import Sample, UsageError
from harness_domain.label_sets import multilabel
from tests.helpers.answers import score_answer

CASES = [  # target, answer, f1, exact
    ("sport, music", "music, Sport", 1.0, 1.0),
    ("sport, music", "sport", 2 / 3, 0.0),
    ("sport", "sport, music, money", 0.5, 0.0),
    ("sport", "music", 0.0, 0.0),
    ("none", "none", 1.0, 1.0),
    ("none", "", 0.0, 0.0),
    ("sport, music", "sport,  music , money", 0.8, 0.0),
]


@pytest.mark.parametrize(("target", "answer", "f1", "exact"), CASES)
def test_labels_are_a_set(target: str, answer: str, f1: float, exact: float) -> None:
    """Order, case and white space do not count; missing and additional labels do."""
    score = score_answer(multilabel, answer, Sample("a", "which?", target))
    assert score.values == {"f1": pytest.approx(f1), "exact": exact}


def test_a_row_needs_a_target() -> None:
    """An empty target is no set of labels; a row without labels says "none"."""
    with pytest.raises(UsageError, match="target is missing or empty"):
        score_answer(multilabel, "sport", Sample("a", "which?", ""))
