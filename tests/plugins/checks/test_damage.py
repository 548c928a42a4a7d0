"""Line breaks and columns that other programs damaged: kinds of D11."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.records.findings import TrainingRow
from harness.records.samples import Sample
from harness_checks.damage import compare_endings, find_damage


def find_damage_kinds(
    pairs: list[tuple[str, str]], asked: tuple[str, str] = ("Where is it?\n", "in room 9")
) -> set[str]:
    """Return the kinds that are found in training rows, beside an evaluation of eight such rows."""
    rows = [TrainingRow(i, "x", {"prompt": p, "completion": a}, {}) for i, (p, a) in enumerate(pairs, 1)]
    samples = [Sample(str(i), *asked) for i in range(8)]
    task: Any = SimpleNamespace(brings_rows=False, samples=samples, generates=False)
    task.function, task.spec = (lambda: None), SimpleNamespace(options={})
    found = {kind for kind, bad, _, _ in find_damage(rows, {"qa": task}) if bad}
    return found | {finding.kind for finding in compare_endings(rows, {"qa": task})}


PLAIN = ("Where is it?\n", "in room 9")


@pytest.mark.parametrize(
    ("pair", "asked", "found"),
    [
        (PLAIN, PLAIN, set()),
        (("Where is it?\r\n", "in room 9"), PLAIN, {"endings"}),
        (("Where is it?\n", "in\r\nroom"), PLAIN, {"endings"}),
        (("Where is it?\r", "in room 9"), PLAIN, {"endings"}),
        (PLAIN, ("Where is it?\r\n", "in room 9"), {"endings"}),
        (PLAIN, ("Where is it?\n", "in\r\nroom"), {"endings"}),
        (("Where is it?\r\n", "in room 9"), ("Where is it?\r\n", "in room 9"), set()),
        ((r"Where is it?\n", "in room 9"), PLAIN, {"escapes"}),
        ((r"Where is it?\n", "in room 9"), (r"Where is it?\n", "in room 9"), set()),
        (("Say it?\n", r"\nu and \neq"), PLAIN, set()),
        (("Say it?\n", r'print("a\n")'), PLAIN, set()),
        (("Say it?\n", 'print("a",\n  "b\\n ")'), PLAIN, set()),
        (("in room 9\n", "Where is it?"), PLAIN, {"swapped"}),
        (("in room 9\n", "Where is it?"), ("in room 9\n", "Where is it?"), set()),
    ],
)
def test_line_breaks_and_columns(pair: tuple[str, str], asked: tuple[str, str], found: set[str]) -> None:
    """What differs between training and evaluation is found; what both have, LaTeX and programs are not."""
    assert find_damage_kinds([pair] * 12, asked) == found


def test_a_few_rows_are_no_finding() -> None:
    """One row of a hundred with a carriage return, or an escape in it, says nothing."""
    assert find_damage_kinds([PLAIN] * 99 + [("Where is it?\r\n", r"a\n b")]) == set()
