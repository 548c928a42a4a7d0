"""The rule of attempts against a slow reading of it, and what a row's key is made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.pipeline.attempts import Ledger
from harness.pipeline.looks import Look, agrees, keys_of, row_key, rows_digest, together
from harness.records.samples import Sample
from harness.suite.reader import read_suite
from harness.testing import SUITE


class Seen(NamedTuple):
    """One look as the issue speaks of it."""

    role: str
    weights: str
    rows: frozenset[str]
    scores: str


def reference(history: list[Seen], now: Seen) -> int:
    """Return one more than the distinct earlier looks in the role that share a tenth of the smaller set of rows.

    A look that was had before keeps the number it has among them.
    """
    near = [
        seen
        for seen in history
        if seen.role == now.role
        and Fraction(len(seen.rows & now.rows)) >= Fraction(1, 10) * min(len(seen.rows), len(now.rows))
    ]
    distinct = list(dict.fromkeys(near))
    return distinct.index(now) + 1 if now in distinct else len(distinct) + 1


ROWS = st.tuples(st.integers(0, 40), st.integers(1, 30)).map(
    lambda r: frozenset(f"{i:032x}" for i in range(r[0], sum(r)))
)
LOOKS = st.builds(Seen, st.sampled_from(["adapter", "merged"]), st.sampled_from("uvw"), ROWS, st.sampled_from("st"))


@settings(deadline=None, max_examples=60)
@given(st.lists(LOOKS, min_size=1, max_size=12))
def test_ledger_counts_as_the_rule_says(history: list[Seen]) -> None:
    """For any history of looks every number is that of a slow reading of the rule, whoever opens the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.toml"
        path.write_text(SUITE, "utf-8")
        suite = read_suite(path)
        for k, seen in enumerate(history):
            ledger = Ledger(Path(folder) / "attempts.jsonl", pytest.fail)
            look = Look(seen.role, seen.weights, seen.rows, {rows_digest(seen.rows): (seen.scores,)}, whole=True)  # type: ignore[arg-type]
            with ledger.locked():
                attempt = ledger.attempt(look, list)
                ledger.record(attempt, look, suite, "model")
            assert attempt.sure
            assert attempt.number == reference(history[:k], seen)


def test_a_tenth_is_enough() -> None:
    """Of 10 and 100 rows one in common is a tenth of the smaller set; of 11 it is not."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "attempts.jsonl", pytest.fail)
        many = frozenset(map(str, range(100)))
        rows = rows_digest(many)
        ledger.file(rows).parent.mkdir()
        ledger.file(rows).write_text("".join(f"{key}\n" for key in sorted(many)), "utf-8")
        for size, meets in ((10, True), (11, False)):
            few = frozenset(map(str, range(99, 99 + size)))
            assert ledger.meets(rows, Look("merged", "w", few, {}, whole=True)) is meets


def test_scores_that_are_to_come_are_not_contrary() -> None:
    """What an earlier look reserved and did not see may be seen; what it saw must be the same, as often."""
    assert agrees({"r": ("a",)}, {"r": ("a", "")})
    assert agrees({"r": ("a", "b")}, {"r": ("a", "")})
    assert not agrees({"r": ("a", "b")}, {"r": ("a",)})
    assert not agrees({"r": ("b",)}, {"r": ("a",)})
    assert not agrees({"r": ("a", "b")}, {"r": ("a", "a")})
    assert not agrees({"q": ("a",)}, {"r": ("a",)})
    assert agrees({"q": ("",)}, {"r": ("a",)})
    assert together({"r": ("", "b")}, {"r": ("a", "")}) == {"r": ["a", "b"]}
    assert together({"r": ("a", "")}, {"r": ("a", "a")}) == {"r": ["a", "a"]}


def row(**columns: Any) -> Sample:
    return Sample("1", columns.pop("input", ""), columns.pop("target", ""), columns)


EQUAL = {
    "an id": (row(input="a", target="b"), Sample("2", "a", "b", {"id": "2"})),
    "a form of Unicode": (row(input="\u00e9"), row(input="e\u0301")),
    "white space": (row(input="a  b\n"), row(input=" a b")),
    "a message": (row(input="a"), row(input=[{"role": "user", "content": "a "}])),
    "an order of targets": (row(input="a", target=["b", "c"]), row(input="a", target=["c", "b"])),
    "one target in a list": (row(input="a", target="b"), row(input="a", target=["b"])),
    "another column": (row(input="a", kind="b"), row(input="a", kind="c")),
    "a column beside a text": (row(text="a b", kind="c"), row(text="a  b")),
}
DIFFERENT = {
    "an input": (row(input="a"), row(input="b")),
    "a target": (row(input="a", target="b"), row(input="a", target="c")),
    "a target for an input": (row(input="a"), row(target="a")),
    "a role": (row(input=[{"role": "system", "content": "a"}]), row(input="a")),
    "a text": (row(text="a"), row(text="b")),
    "columns where there is nothing else": (row(a="1"), row(a="2")),
    "lower case": (row(input="a"), row(input="A")),
}


@pytest.mark.parametrize("case", EQUAL)
def test_what_is_no_part_of_a_key(case: str) -> None:
    """The same question in other clothes has the same key."""
    one, other = EQUAL[case]
    assert row_key(one) == row_key(other) != ""


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_is_part_of_a_key(case: str) -> None:
    """Another question or another answer has another key."""
    one, other = DIFFERENT[case]
    assert row_key(one) != row_key(other)


def test_what_is_no_row_has_no_key() -> None:
    """An evaluation of the model itself asks no row; half a character in one is no reason to fail."""
    assert keys_of([Sample("model"), row(input="a\ud800")]) == {row_key(row(input="a\ud800"))}


LINES: dict[str, Callable[[str], str]] = {
    "half a line": lambda good: good[: len(good) // 2],
    "another format": lambda good: good.replace('"format": 2', '"format": 3'),
    "rows that lead elsewhere": lambda good: good.replace('"rows": "', '"rows": "../'),
    "scores in no list": lambda good: good.replace('["s"]', '"s"'),
    "weights that are a number": lambda good: good.replace('"weights": "w"', '"weights": 7'),
    "5,000 digits": lambda good: good.replace('"attempt": 1', f'"attempt": {"9" * 5000}'),
    "100,000 deep": lambda good: "[" * 100_000,
    "a number": lambda good: "7",
}


@pytest.mark.parametrize("case", LINES)
def test_lines_that_cannot_be_read_are_told_once(tmp_path: Path, case: str) -> None:
    """By their number, and the others count as ever."""
    (tmp_path / "suite.toml").write_text(SUITE, "utf-8")
    told: list[str] = []
    ledger = Ledger(tmp_path / "attempts.jsonl", told.append)
    keys = frozenset("ab")
    look = Look("merged", "w", keys, {rows_digest(keys): ("s",)}, whole=True)
    ledger.record(ledger.attempt(look, list), look, read_suite(tmp_path / "suite.toml"), "merged")
    good = ledger.path.read_text("utf-8")
    ledger.path.write_text(LINES[case](good.strip()) + "\n" + good, "utf-8")
    other = Look("merged", "v", keys, {rows_digest(keys): ("s",)}, whole=True)
    assert [ledger.attempt(other, list).number for _ in range(2)] == [2, 2]
    assert told == [f"{ledger.path}:1: cannot be read; the attempts that are told may be too few"]
