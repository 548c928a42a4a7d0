"""`json`: whether an answer parses, matches a schema, and says what is wanted."""

from __future__ import annotations

import json as text_of
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import Sample, UsageError
from harness.testing import Project
from harness_domain import json, values
from harness_domain.documents import compile_schema
from tests.helpers.answers import score_answer

PERSON = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
}


@pytest.mark.parametrize(
    ("answer", "find", "parses"),
    [
        ('{"a": 1}', "whole", 1),
        (" [1, 2]\n", "whole", 1),
        ('```json\n{"a": 1}\n```', "fence", 1),
        ('```\n{"a": 1}\n```', "fence", 1),
        ('```json\n{"a": 1}\n```', "whole", 0),
        ('Here: ```json\n{"a": 1}\n```', "fence", 0),
        ('```json {"a": 1}```', "fence", 1),
        ('```{"a": 1}```', "fence", 1),
        ("```json\r\n12\r\n```", "fence", 1),
        ('~~~json\n{"a": 1}\n~~~', "fence", 1),
        ('~~~\n{"a": "```"}\n~~~', "fence", 1),
        ('````json\n{"a": "```"}\n````', "fence", 1),
        ('```json\n{"a": 1}\n~~~', "fence", 0),
        ('```json {"a": 1}```', "whole", 0),
        ('Here you are: {"a": {"b": [1]}}. Good?', "first", 1),
        ('see [1 or {"a": 1}', "first", 1),
        ('\ufeff{"a": 1}', "whole", 1),
        ('\ufeff```json\n\ufeff{"a": 1}\n```', "fence", 1),
        ("no JSON here", "first", 0),
        ('{"a": NaN}', "fence", 0),
        ('{"a": Infinity}', "fence", 0),
        ('{"a": 1, "a": 2}', "fence", 0),
        ("{'a': 1}", "fence", 0),
        ('{"a": 1,}', "fence", 0),
        ("[" * 5000 + "]" * 5000, "fence", 0),
        ("[" * 102 + "]" * 102, "fence", 0),
        ("9" * 5000, "fence", 0),
        ("", "fence", 0),
    ],
)
def test_parses(answer: str, find: str, parses: int) -> None:
    """An answer parses where it is JSON in the place that is asked for, and strictly so."""
    score = score_answer(json, answer, Sample("1", "q"), folder=Path(), find=find, compare=False)
    assert score.values == {"parses": parses}
    assert bool(score.note) == (not parses)


@pytest.mark.parametrize(
    ("answer", "target", "fields", "equal"),
    [
        ('{"b": 2, "a": 1}', {"a": 1, "b": 2.0}, 1, 1),
        ('{"a": 1, "b": 3}', {"a": 1, "b": 2}, 0.5, 0),
        ('{"a": 1}', {"a": True}, 0, 0),
        ('{"a": 1, "more": 0}', {"a": 1}, 1, 0),
        ('{"a": {"x": 1, "y": 0}, "b": [1]}', {"a": {"x": 1, "y": 2}, "b": [1]}, 2 / 3, 0),
        ('{"b": [2, 1]}', {"b": [1, 2]}, 0, 0),
        ("{}", {}, 1, 1),
        ('{"a": 1}', {}, 0, 0),
        ("[1, 2]", [1, 2], 1, 1),
        ("null", [1], 0, 0),
        ('{"a": {}}', {"a": {}}, 1, 1),
        ("nothing", {"a": 1}, 0, 0),
        ('{"caf\u00e9": "cr\u00e8me"}', {"cafe\u0301": "cre\u0300me"}, 1, 1),
        ('["cre\u0300me"]', ["cr\u00e8me"], 1, 1),
        ('{"a": "\\u0065\\u0301"}', {"a": "\u00e9"}, 1, 1),
        ('{"e\u0301": 1, "\u00e9": 2}', {"\u00e9": 2}, 1, 0),
    ],
)
def test_compares_values(answer: str, target: Any, fields: float, equal: int) -> None:
    """Fields are compared as JSON values: the order of keys says nothing, 1 is 1.0, and true is no number."""
    found = score_answer(json, answer, Sample("1", "q", text_of.dumps(target)), folder=Path()).values
    assert (found["fields"], found["equal"]) == (pytest.approx(fields), equal)


@pytest.mark.parametrize(
    ("answer", "target", "schema", "equal"),
    [
        ('see [1]: {"a": 1}', {"a": 1}, None, 1),
        ('[{"a": 1}]', {"a": 1}, None, 0),
        ("they are [1, 2]", [1, 2], None, 1),
        ('see [1]: ["a"]', ["a"], {"type": "array", "items": {"type": "string"}}, 1),
        ("see [1]", {"a": 1}, None, 0),
    ],
)
def test_the_first_that_is_wanted(answer: str, target: Any, schema: Any, equal: int) -> None:
    """The mark of a source is not the answer: an object is, or a list where one is wanted."""
    row, options = Sample("1", "q", text_of.dumps(target)), {"schema": schema} if schema else {}
    assert score_answer(json, answer, row, folder=Path(), find="first", **options).values["equal"] == equal


def test_ignored_fields() -> None:
    """What is ignored counts neither where it differs nor where it is missing."""
    sample = Sample("1", "q", '{"id": 7, "who": {"at": "noon", "name": "Ann"}}')
    answer = '{"who": {"at": "night", "name": "Ann"}}'
    assert score_answer(json, answer, sample, folder=Path(), ignore=("id", "who.at")).values["equal"] == 1
    assert score_answer(json, answer, sample, folder=Path(), ignore=("id",)).values["equal"] == 0


def test_valid() -> None:
    """A schema decides what is valid, and the note says where an answer is not."""
    row = Sample("1", "q", '{"name": "Ann"}')
    good = score_answer(json, '{"name": "Bo", "age": 3.0}', row, folder=Path(), schema=PERSON)
    bad = score_answer(json, '{"name": "Bo", "age": -1}', row, folder=Path(), schema=PERSON)
    none = score_answer(json, "Bo", row, folder=Path(), schema=PERSON)
    assert (good.values["valid"], bad.values["valid"], none.values["valid"]) == (1, 0, 0)
    assert bad.note == "$.age: -1 is less than the minimum of 0"
    assert none.values == dict.fromkeys(("parses", "valid", "fields", "equal"), 0.0)


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "objekt"}, "schema: is not a valid schema: $.type"),
        ({"properties": []}, "is not a valid schema: $.properties: [] is not of type 'object'"),
        ({}, "; it must be an object with at least one requirement"),
        (
            {"$ref": "https://example.org/person.json"},
            (
                'refers to "https://example.org/person.json", which it does not contain; put it '
                'into "$defs", since nothing is downloaded'
            ),
        ),
        (
            {"properties": {"a": {"$ref": "#/$defs/b"}}},
            ('refers to "#/$defs/b", which it does not contain; put it into "$defs", since nothing is downloaded'),
        ),
        ({"$schema": "https://example.org/draft", "type": "object"}, ", which is not a draft of JSON Schema"),
        ("none.json", "cannot be read: No such file"),
        ("broken.json", "is not valid JSON"),
        ("list.json", "; it must be an object with at least one requirement"),
    ],
)
def test_schemas_that_are_none(tmp_path: Path, schema: Any, what: str) -> None:
    """What is no schema, demands nothing or leads elsewhere is refused."""
    (tmp_path / "broken.json").write_text("{", "utf-8")
    (tmp_path / "list.json").write_text("[]", "utf-8")
    with pytest.raises(UsageError, match="schema") as error:
        compile_schema(schema, tmp_path)
    assert what in str(error.value)


def test_references_within_a_schema(tmp_path: Path) -> None:
    """A schema may refer to its own parts, also one that comes as a file with another draft."""
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    assert compile_schema(schema, tmp_path)({"a": 1}) == ""
    assert compile_schema(schema, tmp_path)({"a": "1"}) == "$.a: '1' is not of type 'integer'"
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}
    (tmp_path / "old.json").write_text(text_of.dumps(old), "utf-8")
    assert compile_schema("old.json", tmp_path)(["a", 1]) == ""
    assert compile_schema("old.json", tmp_path)([1]) != ""


def test_a_schema_without_end_is_no_crash(tmp_path: Path) -> None:
    """A schema that refers to itself matches nothing, and says so."""
    assert compile_schema({"$ref": "#"}, tmp_path)({}) == "is nested too deeply to be validated"


EVAL = """
[suite]
name = "j"

[model]
use = "fake"
path = "base"

[[eval]]
name = "order"
use = "json"
data = "test.jsonl"
max_new_tokens = 40
"""


@pytest.mark.parametrize(
    ("more", "row", "what"),
    [
        ("", {"target": "{"}, "the target '{' is not valid JSON:"),
        ("", {"target": None}, "target is missing or empty"),
        ("", {"target": '{"a": NaN}'}, "NaN is not JSON"),
        ('schema = { required = ["a"] }', {"target": {"b": 1}}, "does not match the schema: $: 'a' is a required"),
        ('schema = { type = "objekt" }', {"target": {"b": 1}}, "schema: is not a valid schema: $.type"),
        ('schema = "none.json"', {"target": {"b": 1}}, 'schema "none.json": cannot be read'),
        ("schema = 5", {"target": {"b": 1}}, '"schema" is 5; it must be a table or a string'),
        ('find = "any"', {"target": {"b": 1}}, 'eval "order": "find" is "any"'),
    ],
)
def test_mistakes_are_told_at_collection(project: Project, more: str, row: dict[str, Any], what: str) -> None:
    """A row, a schema or an option that is wrong is one line, before anything is opened."""
    project.write({"suite.toml": EVAL + more, "test.jsonl": [{"input": "Order?", **row}]})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert what in done.err


def test_the_extra_that_schemas_need(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jsonschema a suite with a schema says what to install, and one without needs nothing."""
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    rows = [{"input": "Order?", "target": {"a": 1}}]
    project.write({"suite.toml": EVAL, "test.jsonl": rows})
    assert project.run("--collect-only").code == 0
    project.write({"suite.toml": EVAL + "schema = { required = ['a'] }\n"})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert 'needs the module "jsonschema"; pip install jsonschema' in done.err


def test_metrics_follow_from_the_options(project: Project) -> None:
    """Without a schema there is no `valid`, without targets nothing is compared."""
    rows = [{"input": "say yes"}, {"input": "say no"}]
    project.write({"suite.toml": EVAL + "compare = false\n", "test.jsonl": rows})
    assert dict(project.run().report.results[0].metrics) == {"parses": 0.0}


def test_brackets_without_end() -> None:
    """An answer of brackets alone is given up on."""
    with pytest.raises(ValueError, match="contains no JSON object or list"):
        values.parse_first_json("[{" * 50_000)
