"""D17 and D18: labels that are learnt against those that are asked for, and what a constant answer scores."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from harness.records.findings import Finding, TrainingRow
from harness.records.samples import Sample
from harness_checks.labels import shares, unasked

WORDS = ["bright", "dark", "plain"]


def make_training_rows(answers: Sequence[str], times: int = 10) -> list[TrainingRow]:
    made = [{"prompt": f"{i}?", "completion": f" {answer}"} for i, answer in enumerate([*answers] * times)]
    return [TrainingRow(i, "train", row, row) for i, row in enumerate(made, 1)]


def make_task(targets: Sequence[Any], use: str = "multiple_choice", data: str = "test", **options: Any) -> Any:
    given = {"choices": WORDS, **options} if use == "multiple_choice" else options
    spec = SimpleNamespace(use=use, data=data, options=given)
    samples = tuple(Sample(str(i), f"{i}!", target) for i, target in enumerate([*targets] * 10))
    return SimpleNamespace(spec=spec, samples=samples, brings_rows=False)


def find_unasked_labels(learnt: Sequence[str], **tasks: Any) -> list[Finding]:
    return list(unasked(make_training_rows(learnt), tasks))


def test_labels_that_nobody_asks_for() -> None:
    """Numbers against words are an error with all rows, some of them a warning; the choices are named."""
    (found,) = find_unasked_labels(["0", "1", "2"], mood=make_task(WORDS))
    assert found.what == '30 of 30 training rows have labels that no evaluation has: "0" 33%, "1" 33%, "2" 33%'
    assert found.evidence == ['"mood" has "bright" 33%, "dark" 33%, "plain" 33%']
    assert (found.severity, len(found.rows["training data"])) == ("error", 30)
    (found,) = find_unasked_labels([*WORDS, "sad"], mood=make_task(WORDS))
    assert (found.severity, found.rows["training data"]) == ("warning", [str(i) for i in range(4, 41, 4)])
    (found,) = find_unasked_labels(
        ["0", "1", "2"], mood=make_task(["0", "1", "2"])
    )  # numbers of choices, which are never said
    assert found.severity == "error"


def test_answers_that_are_asked_for_somewhere() -> None:
    """No finding where another evaluation wants them, the label is a part of them, or they are no labels."""
    assert find_unasked_labels(["Bright", " dark", "plain"], mood=make_task(WORDS)) == []
    assert (
        find_unasked_labels(["It is bright.", "It is dark.", "It is plain."], mood=make_task(WORDS, "contains")) == []
    )
    assert (
        find_unasked_labels(
            ["0", "1", "2"], mood=make_task(WORDS), own=make_task(["0", "1", "2"], "perplexity", "other")
        )
        == []
    )
    assert find_unasked_labels([f"answer {i}" for i in range(60)], mood=make_task(WORDS)) == []
    assert find_unasked_labels(["0", "1", "2"], free=make_task([f"answer {i}" for i in range(60)], "exact_match")) == []
    assert find_unasked_labels(["0", "1"], facts=make_task(["x"], choices=[])) == find_unasked_labels(["0", "1"]) == []


def test_shares() -> None:
    """The shares are a note, a `min` below a constant answer a warning, and so is one label alone, on either side."""
    gates: Any = [SimpleNamespace(id="good", metric="mood.acc", min=0.5)]

    def found(learnt: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str, str]]:
        return [
            (f.severity, f.kind, f.what)
            for f in shares(make_training_rows(learnt, 30), {"mood": make_task(wanted)}, gates)
        ]

    note, constant = found(WORDS, ["bright", "bright", "bright", "plain"])
    assert note[2].startswith(
        '"mood": "bright" 75%, "plain" 25%, "dark" 0%; one answer for every row would score 0.75; training data:'
    )
    assert constant == ("warning", "constant", 'gate "good": mood.acc above 0.5, where a constant answer scores 0.75')
    mixed = [*WORDS, *map(str, range(60))]  # other answers among them
    assert [(kind, what.rpartition("; ")[2]) for _, kind, what in found(mixed, WORDS)] == [
        ("", 'training data: "bright" 33%, "dark" 33%, "plain" 33%')
    ]
    assert found(["dark"], WORDS)[0] == ("warning", "one", 'all 30 rows of the training have the label "dark" 100%')
    assert [kind for _, kind, _ in found(WORDS, ["dark", "dark"])] == ["one", ""]
