"""Checks by effect: rows that ask nothing, too few rows, a device that a run refuses, words but for their endings."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from harness.data.templates import fill_template
from harness.records.claims.gate import Gate
from harness.records.findings import Finding, TrainingRow
from harness.records.metrics import Metric
from harness.records.models import ModelRef
from harness.records.samples import Sample
from harness_checks.evaluations import _check_gates_have_enough_rows, uninformative
from harness_checks.leaks import leaks
from harness_checks.lint import lint
from harness_checks.recipe import unusual_recipe

TEMPLATE = "Text: {text}\nLabel:"
NO_BASE = ModelRef("base", "no-such-folder")


def make_rows(texts: Sequence[str], template: str = TEMPLATE) -> list[TrainingRow]:
    raw = [{"text": text, "label": ("good", "bad")[i % 2]} for i, text in enumerate(texts)]
    prompts = fill_template(template, raw, "")
    rows = [{"prompt": prompt, "completion": one["label"]} for prompt, one in zip(prompts, raw, strict=True)]
    return [TrainingRow(i, "train", row, one) for i, (row, one) in enumerate(zip(rows, raw, strict=True), 1)]


def make_task(samples: Sequence[Sample], use: str = "exact_match", template: str | None = None) -> Any:
    spec = SimpleNamespace(
        name="qa", use=use, options={}, template=template, columns={}, cluster=None, clusters=[], data="qa.jsonl",
        limit=None, fewshot_data=None, select=None,
    )  # fmt: skip
    metrics = {"exact_match": Metric("exact_match", "higher", "proportion")}
    return SimpleNamespace(
        spec=spec, samples=tuple(samples), select=(), shots=(), metrics=metrics, brings_rows=False, function=None,
        rows_of=lambda _: tuple(samples),
    )  # fmt: skip


def list_kinds(findings: Any) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings}


def test_rows_that_ask_nothing_are_no_duplicates() -> None:
    """Empty cells of a template are told as such, with their numbers, and not as copies with several answers."""
    rows = make_rows([*(f"note {i} of the day" for i in range(40)), "", " ", "", ""])
    found = list_kinds(lint(rows, NO_BASE, {}))
    assert found.keys() == {"blank"} and found["blank"].rows == {"training data": ["41", "42", "43", "44"]}
    assert found["blank"].what == "4 of 44 rows: no input"
    again = list_kinds(lint(make_rows([f"note {i % 20}" for i in range(41)]), NO_BASE, {}))
    assert "blank" not in again and "duplicate" in again


def test_chats_that_ask_nothing_are_told() -> None:
    """A chat whose user says nothing is a row without an input."""
    chats = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": f"answer {i}"}]
        for i, text in enumerate([*(f"question {i}?" for i in range(20)), "", "  "])
    ]
    rows = [TrainingRow(i, "train", {"messages": own}, {"messages": own}) for i, own in enumerate(chats, 1)]
    assert list_kinds(lint(rows, NO_BASE, {}))["blank"].rows == {"training data": ["21", "22"]}


def test_evaluated_rows_that_ask_nothing_are_told_as_such() -> None:
    """By the columns of the template, and D23 does not call them one prompt with several targets."""
    texts = [*(f"note {i} of the day" for i in range(30)), "", "", ""]
    raw = [{"text": text, "label": ("good", "bad")[i % 2]} for i, text in enumerate(texts)]
    prompts = fill_template(TEMPLATE, raw, "")
    rows = zip(prompts, raw, strict=True)
    samples = [Sample(str(i), prompt, one["label"], row=one) for i, (prompt, one) in enumerate(rows)]
    task = make_task(samples, "regex", TEMPLATE)
    assert list_kinds(lint([], NO_BASE, {"qa": task}))["blank"].rows == {"qa": ["30", "31", "32"]}
    suite: Any = SimpleNamespace(header=SimpleNamespace(alpha=0.05))
    assert "conflict" not in list_kinds(uninformative({"qa": task}, suite, [], NO_BASE))


FEW = [
    (30, {"versus": "base", "worse_by_at_most": 0.1}, "130 rows would make it 80%"),
    (12, {"versus": "base", "better_by": 0}, "only if it is +0.412"),
    (12, {"min": 0.5}, "only if it is 0.869"),
    (300, {"versus": "base", "worse_by_at_most": 0.1}, ""),
    (40, {"versus": "base", "worse_by_at_most": 0.3}, ""),
    (50, {"min": 0.8}, ""),
]


@pytest.mark.parametrize(("count", "claim", "told"), FEW)
def test_few_rows_are_told_before_a_run(count: int, claim: dict[str, Any], told: str) -> None:
    """A gate that a good candidate would rather not pass is told, as `harness plan` would."""
    samples = [Sample(str(i), f"question {i}", "a") for i in range(count)]
    gate = Gate("g", "qa.exact_match", **claim)
    suite: Any = SimpleNamespace(header=SimpleNamespace(alpha=0.05))
    found = [one.what for one in _check_gates_have_enough_rows({"qa": make_task(samples)}, suite, [gate])]
    assert len(found) == bool(told) and all(told in what for what in found)


def list_device_warnings(device: str, **train: Any) -> list[str]:
    suite: Any = SimpleNamespace(
        trains=False, train=SimpleNamespace(use="sft", options=train), adapter=None,
        model=SimpleNamespace(path="model", use="hf", options={"device": device}),
    )  # fmt: skip
    return [finding.what for finding in unusual_recipe(suite) if finding.kind == "device"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is about a machine without a GPU")
def test_a_device_that_a_run_refuses_is_told() -> None:
    """In the words of the run; a precision without effect is told too."""
    (told,) = list_device_warnings("cuda")
    assert told.startswith('a run on this machine ends: [model] device "cuda": ')
    assert list_device_warnings("auto") == list_device_warnings("cpu") == []
    assert list_device_warnings("cpu", fp16=True) == ["fp16 = true has no effect on a CPU, which trains in float32"]


def test_words_but_for_their_endings_are_a_note() -> None:
    """Short inputs that share the beginnings of their words with a training row are noted; longer ones are not."""
    words = ["abandon", "delight", "comfort", "embarrass", "frighten", "satisfy", "confuse", "disappoint"]
    training = make_rows([f"{word}ed" for word in words] + [f"other{i}" for i in range(12)], "{text}")
    samples = [Sample(str(i), f"{word}ing", "good") for i, word in enumerate(words)]
    samples += [Sample(str(i), f"plain {i}", "bad") for i in range(100, 120)]
    suite: Any = SimpleNamespace(subjects={}, header=SimpleNamespace(seed=0))
    found = list_kinds(leaks(training, {"qa": make_task(samples)}, suite))
    assert found.keys() == {"stem"} and found["stem"].severity == "note"
    assert found["stem"].what.startswith(
        '8 of 28 rows of "qa" have the words of a row, except for their endings, in the'
    )
    few = leaks(
        make_rows(["abandoned", *(f"other{i}" for i in range(12))], "{text}"), {"qa": make_task(samples)}, suite
    )
    assert list_kinds(few) == {}
