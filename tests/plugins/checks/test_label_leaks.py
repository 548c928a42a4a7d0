"""The label in its own prompt: a mistake where the template names it, D23-label where a column or the text has it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.data.templates import fill_template
from harness.records.samples import Sample
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness_checks.evaluations import has_words
from harness_checks.label_leaks import find_label_leak

Rows = list[dict[str, Any]]
WORDS = ["angry", "calm", "glad", "sad"]
CODES = {"angry": "k1", "calm": "k2", "glad": "k3", "sad": "k4"}


def make(count: int = 80, **columns: Any) -> Rows:
    """Return rows with a label; a column is a function of the number and the label of its row."""
    rows = [{"text": f"note {i} of the day", "label": WORDS[i % 4]} for i in range(count)]
    return [{**row, **{n: f(i, row["label"]) for n, f in columns.items()}} for i, row in enumerate(rows)]


def find(rows: Rows, template: str) -> tuple[str, str] | None:
    samples = [
        Sample(str(i), text, r["label"], row=r)
        for i, (text, r) in enumerate(zip(fill_template(template, rows, ""), rows, strict=True))
    ]
    task: Any = SimpleNamespace(spec=SimpleNamespace(template=template))
    found = find_label_leak(task, samples, {s.id: str(s.target) for s in samples}, has_words)
    return (found[0], found[1]) if found else None


LEAKS = {
    "the label in another column": (
        make(mood=lambda _, label: label.upper()), "{text} ({mood})",
        ("error", 'the column "mood" of the template contains the label'),
    ),
    "a code of the label": (
        make(code=lambda _, label: CODES[label]), "{text} ({code})",
        ("warning", 'the column "code" of the template determines the label'),
    ),
    "the label in the text": (
        make(note=lambda i, label: f"{i} days, so I am {label} about it"), "{note}",
        ("warning", "the label is in its own prompt"),
    ),
}  # fmt: skip
FINE = {
    "rows that repeat": ([row for row in make(40) for _ in range(5)], "{text}"),
    "no label": (make(), "{text}"),
    "all labels as choices": (make(), "{text} (angry, calm, glad or sad?)"),
    "a column that tells something": (make(kind=lambda i, label: label if i % 3 else "calm"), "{text} ({kind})"),
    "a column of free text": (make(name=lambda i, label: f"{label[0]}{i}"), "{name}"),
    "few rows": (make(16, mood=lambda _, label: label), "{text} ({mood})"),
    "one label of nearly all": ([{**r, "label": "calm" if i else "sad"} for i, r in enumerate(make())], "{text} calm"),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_label_that_the_prompt_gives_away_is_found(case: str) -> None:
    """A column that equals or determines the label, or the label in the text, is a finding."""
    rows, template, wanted = LEAKS[case]
    assert find(rows, template) == wanted


@pytest.mark.parametrize("case", FINE)
def test_other_prompts_are_none(case: str) -> None:
    """Choices that are listed, a column that helps, and too few rows are no finding."""
    assert find(*FINE[case]) is None


@pytest.mark.parametrize("table", ["train", "eval"])
@pytest.mark.parametrize("columns", ['columns = { target = "target" }', ""])
def test_a_template_that_names_the_target_is_a_mistake(table: str, columns: str, project: Project) -> None:
    """Nothing is measured where a template writes the answer into the prompt, in training or in an evaluation."""
    line = f'template = "Say {{input}} ({{target}})"\n{columns}\n'
    anchor = 'data = "train.jsonl"\n' if table == "train" else 'use = "exact_match"\n'
    project.write({"suite.toml": SUITE.replace(anchor, anchor + line), "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = project.run()
    assert outcome.code == 4
    what = 'template names "target", the column of the target, so the prompt contains its answer; remove it'
    assert what in outcome.err, outcome.err
