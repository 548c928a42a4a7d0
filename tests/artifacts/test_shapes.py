"""The shape of a record is checked before anyone uses a field of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.shapes import require_shape
from harness.testing import Project
from tests.helpers.exports import reseal

SHAPE = {"id": str, "size": int, "rows?": [{"n": int}], "names?": {str: (str, type(None))}, "more?": object}


@pytest.mark.parametrize(
    "record",
    [
        {"id": "a", "size": 1},
        {"id": "a", "size": 1, "rows": [], "names": {}, "other": [1]},
        {"id": "a", "size": 1, "rows": [{"n": 1}], "names": {"x": None, "y": "z"}, "more": 7},
    ],
)
def test_a_record_of_a_shape_is_taken(record: Any) -> None:
    """What a shape does not name is left alone."""
    require_shape(record, SHAPE)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ([], "it is not a table"),
        ({"size": 1}, "id is missing"),
        ({"id": 1, "size": 1}, "id is not a text"),
        ({"id": "a", "size": True}, "size is not an integer"),
        ({"id": "a", "size": 1, "rows": {}}, "rows is not a list"),
        ({"id": "a", "size": 1, "rows": [{"n": 1}, {"n": "1"}]}, "rows[1].n is not an integer"),
        ({"id": "a", "size": 1, "names": {"x": 1}}, "names.x is not a text"),
    ],
)
def test_the_field_of_another_type_is_named(record: Any, problem: str) -> None:
    """By its path."""
    with pytest.raises(ValueError) as error:
        require_shape(record, SHAPE)
    assert str(error.value) == problem


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("manifest.json", ("started",), ["a"]),
        ("manifest.json", ("ledger",), {"lines": 7}),
        ("suite.lock.json", ("gates",), {"a": {"b": 1}}),
        ("suite.lock.json", ("metrics", "qa"), "text"),
        ("gates.json", (0, "outcome"), {"a": 1}),
    ],
)
def test_evidence_of_another_shape_is_refused(name: str, keys: tuple[Any, ...], value: Any, passed: Project) -> None:
    """With the file and the field, before any of it is used."""
    path = passed.folder / "exports/fake/evidence" / name
    record = box = json.loads(path.read_text("utf-8"))
    for key in keys[:-1]:
        box = box[key]
    box[keys[-1]] = value
    path.write_text(json.dumps(record), "utf-8")
    if name == "gates.json":
        reseal(passed.folder / "exports/fake")
    outcome = passed.harness("verify", "exports/fake")
    assert (outcome.code, outcome.err.count("\n")) == (7, 1), outcome
    assert f'"evidence/{name}" is malformed: ' in outcome.err


@pytest.mark.parametrize(
    "words", [("report", "--as", "every-eval-ever"), ("report",), ("show",), ("compare", "whole"), ("history", "fake")]
)
@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("metrics", "qa", "exact_match"), "text"),
        (("gates",), {"a": {"b": 1}}),
        (("suite",), []),
        *((("suite", name), None) for name in ("header", "model", "adapter", "train")),
    ],
)
def test_a_lock_of_another_shape_is_no_traceback(
    words: tuple[str, ...], keys: tuple[str, ...], value: Any, passed: Project
) -> None:
    """A page says that the configuration is unknown, and what needs the lock ends in one line."""
    run = next(path.parent for path in passed.folder.glob("reports/*/suite.lock.json"))
    lock = box = json.loads((run / "suite.lock.json").read_text("utf-8"))
    for key in keys[:-1]:
        box = box[key]
    box[keys[-1]] = value
    shutil.copytree(run, passed.folder / "whole")
    (run / "suite.lock.json").write_text(json.dumps(lock), "utf-8")
    place = () if words[0] == "history" else (str(Path("reports", run.name)),)
    outcome = passed.harness(words[0], *place, *words[1:])
    assert outcome.code in (0, 4), outcome
