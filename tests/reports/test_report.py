"""Reports read back: what somebody else wrote is told in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from harness.reports.report_json import read_run, to_json
from harness.testing import ROWS, SUITE, TRAIN, Project

TEXT = SUITE.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0\nslice = ["kind=*"]\nmin_n = 20')


@pytest.fixture
def suite(project: Project) -> Project:
    """A project whose report has verdicts, slices, a waiver and an export."""
    project.write({"suite.toml": TEXT, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    project.harness("waive", "floor", "--reason", "r", "--until", "9999-01-01", "--by", "ada")
    return project


def test_report_is_read_as_it_was(suite: Project) -> None:
    """What is written and read again is the same report."""
    assert suite.run().code == 0
    (path,) = suite.folder.glob("reports/*/report.json")
    assert json.loads(to_json(read_run(path.parent))) == json.loads(path.read_text("utf-8"))


OTHERS = {
    "a list": "[1, 2]",
    "a number": "7",
    "a text": '"report"',
    "null": "null",
    "another object": '{"a": 1}',
    "another format": '{"format": 99}',
    "the format alone": '{"format": 1}',
    "5,000 digits": '{"format": ' + "9" * 5000 + "}",
    "400 digits": '{"format": 1, "seed": ' + "9" * 400 + "}",
    "100,000 deep": "[" * 100_000,
    "objects 100,000 deep": '{"a":' * 100_000,
    "no JSON": "{",
    "nothing": "",
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("flags", [[], ["--flips"]])
def test_other_json_is_one_line(suite: Project, case: str, flags: list[str]) -> None:
    """Any other file is a mistake of the command: one line, exit 4."""
    suite.write({"report.json": OTHERS[case]})
    for name in (".", "report.json"):
        outcome = suite.harness("show", name, *flags)
        assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome.err
        assert "report.json: " in outcome.err


def test_bytes_are_one_line(suite: Project) -> None:
    """As is what is no text, and what is not there."""
    (suite.folder / "report.json").write_bytes(b"\xff\xfe")
    assert suite.harness("show", ".").code == suite.harness("show", "nowhere").code == 4


VALUES = (None, 0, -1, 1.5, "", "x", "\u2028\n", [], {}, [1], {"a": 1}, True, 10**18, [[]], {"a": {"b": "c"}}, 1e308)


@pytest.mark.slow
def test_damaged_reports_are_shown_or_one_line(suite: Project) -> None:
    """Any value of a report in another's place, or gone: the report is shown, or told in one line, and never a bug."""
    suite.run()
    (path,) = suite.folder.glob("reports/*/report.json")
    good, draw = json.loads(path.read_text("utf-8")), random.Random(17)
    places, codes = [p for p in walk(good) if p], set()
    for _ in range(120):
        damaged, *way = json.loads(json.dumps(good)), *draw.choice(places)
        holder = damaged
        for step in way[:-1]:
            holder = holder[step]
        if draw.random() < 0.2:
            del holder[way[-1]]
        else:
            holder[way[-1]] = draw.choice(VALUES)
        path.write_text(json.dumps(damaged), "utf-8")
        outcome = suite.harness("show", str(path.parent), draw.choice(["-v", "-q", "--flips"]))
        assert (outcome.code, outcome.err.count("\n")) in ((0, 0), (4, 1)), (way, outcome.err)
        codes.add(outcome.code)
    assert codes == {0, 4}


def walk(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield from walk(inner, (*way, step))


@pytest.mark.slow
def test_a_report_that_was_changed_is_told_as_not_verified(project: Project) -> None:
    """A FAIL that became a PASS by hand, or a number, is shown with a line that says what it is worth."""
    project.write({"suite.toml": SUITE.replace("min = 0.5", "min = 0.99"), "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert project.run().code == 1
    (path,) = project.folder.glob("reports/*/report.json")
    assert "not verified" not in project.harness("show").out
    text = path.read_text("utf-8")
    edits = [('"FAIL"', '"PASS"'), ('"exit_code": 1', '"exit_code": 0'), ('"sha256": "', '"sha256": "0')]
    for changed in (text.rpartition(',\n "sha256"')[0] + "\n}\n", *(text.replace(*edit) for edit in edits)):
        path.write_text(changed, "utf-8")
        for words in (["show"], ["report", str(path.parent), "--markdown"]):
            assert "report.json was changed, so its contents are not verified" in project.harness(*words).out
        for words in (("history", "fake"), ("compare", str(path.parent), str(path.parent))):
            assert "not verified, the report was changed: " in " ".join(project.harness(*words).out.split())
