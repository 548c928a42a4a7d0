"""P7 and P8: rejected answers that are trivial, and labels that are out of balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.records.findings import TrainingRow
from harness_checks.pairs import trivial_rejections, unbalanced_labels

PAIRS = [{"prompt": f"Where is {i}?", "chosen": f"in room {i}", "rejected": f"in room {i + 50}"} for i in range(20)]


def make_training_rows(rows: Sequence[Mapping[str, Any]]) -> list[TrainingRow]:
    return [TrainingRow(i, "x", row, row) for i, row in enumerate(rows, 1)]


def list_rejection_kinds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [finding.kind for finding in trivial_rejections(make_training_rows(rows))]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda i, row: {"rejected": "I do not know."}, ["constant"]),
        (lambda i, row: {"rejected": "I do not know" + "." * (i % 2)}, ["constant"]),
        (lambda i, row: {"rejected": f" {row['prompt'].upper()} "}, ["echo"]),
        (lambda i, row: {"rejected": row["prompt"]} if i < 2 else {}, ["echo"]),
        (lambda i, row: {"rejected": "I do not know."} if i < 16 else {}, []),
        (lambda i, row: {"rejected": row["prompt"]} if i < 1 else {}, []),
        (lambda i, row: {"chosen": ("yes", "no")[i % 2], "rejected": ("no", "yes")[i % 2]}, []),
        (lambda i, row: {}, []),
    ],
)
def test_rejected_answers_that_are_trivial(change: Any, kind: list[str]) -> None:
    """One text for all, or the question again, teaches nothing of what is better; two labels in turn are healthy."""
    assert list_rejection_kinds([{**row, **change(i, row)} for i, row in enumerate(PAIRS)]) == kind


def test_rejected_answers_in_chats_and_labels() -> None:
    """The forms of a row are alike: messages, and answers that a label calls unwanted."""
    asked = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in PAIRS]
    assert list_rejection_kinds(
        [{**r, "rejected": [{"role": "assistant", "content": r["prompt"][0]["content"]}]} for r in asked]
    ) == ["echo"]
    labelled = [{"prompt": r["prompt"], "completion": r["chosen"], "label": True} for r in PAIRS]
    assert list_rejection_kinds(labelled) == []
    assert list_rejection_kinds([{**r, "label": False} for r in labelled]) == []
    for completion in ("no", ""):
        unwanted = [{"prompt": r["prompt"], "completion": completion or r["prompt"], "label": False} for r in PAIRS]
        assert list_rejection_kinds([*labelled, *unwanted]) == [("constant" if completion else "echo")]


def test_labels_out_of_balance() -> None:
    """Numbers times weights count; the way out names the weight that makes them equal."""

    def found(wanted: int, unwanted: int, **options: Any) -> list[str]:
        labels = [True] * wanted + [False] * unwanted
        rows = [{"prompt": "?", "completion": str(i), "label": label} for i, label in enumerate(labels)]
        suite: Any = SimpleNamespace(train=SimpleNamespace(options=options))
        return [f"{f.what}; {f.fix}" for f in unbalanced_labels(make_training_rows(rows), suite)]

    what = "15 wanted answers and 1 unwanted ones weigh 15 to 1; "
    assert found(15, 1) == [f"{what}set undesirable_weight = 15, or add rows of the rarer label"]
    assert "set desirable_weight = 15" in found(1, 15)[0]
    assert found(15, 1, undesirable_weight=15.0) == found(30, 10) == found(10, 30) == found(8, 8) == []
    assert found(10, 10, desirable_weight=4.0)
    assert found(20, 0) == []  # which the trainer refuses
