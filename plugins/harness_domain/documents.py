"""Answers that are JSON documents: whether they parse, match a schema, and say what is wanted. `json`.

JSON Schemas are read, checked to be one, and matched without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import Metric, Sample, Score, Subject, UsageError, evaluator
from harness.internals import shorten_text
from harness_domain import values
from harness_domain.matching import generate_all

MAX_NOTE_CHARS = 160  # characters of what is wrong with a value that a note shows
Matches = Callable[[Any], str]


def _make_document_metrics(options: Mapping[str, Any]) -> list[Metric]:
    names = ["parses", *(["valid"] if "schema" in options else [])]
    names += ["fields", "equal"] if options.get("compare", True) else []
    return [Metric(name, "higher", "proportion") for name in names]


def _require_valid_schema_and_targets(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on an invalid schema or targets. Targets must be JSON that matches the schema."""
    matches = compile_schema(options["schema"], folder) if "schema" in options else None
    if options.get("compare", True):
        for sample in samples:
            _parse_json_target(sample, matches)


@evaluator(
    metrics_for=_make_document_metrics, check_rows=_require_valid_schema_and_targets, json_targets=True,
    needs=lambda options: ("jsonschema",) if "schema" in options else (),
)  # fmt: skip
def json(
    subject: Subject, samples: Sequence[Sample], *, folder: Path,
    schema: dict[str, Any] | str | None = None, compare: bool = True,
    find: Literal["whole", "fence", "first"] = "fence", ignore: tuple[str, ...] = (),
    max_new_tokens: int = 256, stop: tuple[str, ...] = (), thought: tuple[str, ...] = (),
) -> Iterator[Score]:  # fmt: skip
    """Score answers that are to be JSON: `parses`, `valid` by a schema, `fields` and `equal` by the row's target.

    `find` says where the JSON is: the "whole" answer, the same or all of it in one "fence" (``` or ~~~), or the
    "first" object in it, or list where the target is one or matches the schema; without such the first list. NaN,
    infinities and keys that stand twice are no JSON. `schema` is a JSON Schema, in the suite or in a file beside it, of
    Draft 2020-12 unless its $schema says otherwise; nothing is fetched. `equal` is 1 where the answer is the target as
    a JSON value (1 is 1.0, texts are compared in NFC, the order of keys says nothing), `fields` the share of the
    target's fields that the answer has with the same value, those of objects in it too; `ignore` names paths that do
    not count ("customer.id"). With `compare = false` rows need no target. What does not parse has 0 of all. Raises
    UsageError on a schema that is none, and on a row whose target is no JSON or does not match it.
    """
    matches = compile_schema(schema, folder) if schema is not None else None
    ignore = tuple(values.compose_unicode([*ignore]))
    wanted = [
        _compose_nfc_and_drop_fields(_parse_json_target(s, matches), ignore) if compare else None for s in samples
    ]
    found = generate_all(subject, samples, max_new_tokens, stop, thought)
    for sample, target, (said, details) in zip(samples, wanted, found, strict=True):
        scores = {"parses": 0.0, **({"valid": 0.0} if matches else {})}
        scores |= {"fields": 0.0, "equal": 0.0} if compare else {}
        try:
            value = _parse_json_answer(said, find, matches, target)
        except ValueError as error:
            yield Score(sample.id, scores, answer=said, note=f"does not parse: {error}", details=details)
            continue
        why = matches(value) if matches else ""
        scores |= {"parses": 1.0, **({"valid": float(not why)} if matches else {})}
        if compare:
            value = _compose_nfc_and_drop_fields(value, ignore)
            same, ours, theirs = (
                values.is_equal_json(value, target),
                values.flatten_fields(value),
                values.flatten_fields(target),
            )
            right = sum(path in ours and values.is_equal_json(ours[path], leaf) for path, leaf in theirs.items())
            scores |= {"fields": right / len(theirs) if theirs else float(same), "equal": float(same)}
        yield Score(sample.id, scores, answer=said, note=why or None, details=details)


def _compose_nfc_and_drop_fields(value: Any, ignore: Sequence[str]) -> Any:
    """Return a JSON value in NFC, without ignored fields. `exact_match` compares in NFC as well."""
    return values.drop_fields(values.compose_unicode(value), ignore)


def _parse_json_answer(answer: str, find: str, matches: Matches | None, target: Any) -> Any:
    text = answer.strip().removeprefix(values.BOM).strip()
    if find == "first":
        fits = matches or (lambda _: "" if isinstance(target, list) else "not a list")
        return values.parse_first_json(text, lambda value: isinstance(value, dict) or not fits(value))
    return values.parse_json(values.remove_fence(text) if find == "fence" else text)


def _parse_json_target(sample: Sample, matches: Matches | None) -> Any:
    where = f'row "{sample.id}":'
    if not isinstance(sample.target, str) or not sample.target.strip():
        raise UsageError(f"{where} target is missing or empty; map a column to it, or set compare = false")
    try:
        value = values.parse_json(sample.target)
    except ValueError as error:
        raise UsageError(f"{where} the target {sample.target!r:.60} is not valid JSON: {error}") from None
    if matches and (why := matches(value)):
        raise UsageError(f"{where} the target does not match the schema: {why}")
    return value


def compile_schema(schema: Mapping[str, Any] | str, folder: Path) -> Matches:
    """Compile a JSON Schema into a function returning a value's error.

    The error is empty for a match. `schema` is the schema itself, or its file's path relative to `folder`; it is Draft
    2020-12 unless it names another. Raises UsageError if it is invalid, empty, or has unresolvable references.
    """
    where, found = "schema", schema
    if isinstance(schema, str):
        where = f'schema "{schema}"'
        try:
            found = values.parse_json((folder / schema).read_text("utf-8-sig"))
        except OSError as error:
            raise UsageError(f"{where}: cannot be read: {error.strerror}; looked for {folder / schema}") from None
        except ValueError as error:
            raise UsageError(f"{where}: is not valid JSON: {error}") from None
    if not isinstance(found, Mapping) or not found:
        raise UsageError(f"{where}: is {found!r:.60}; it must be an object with at least one requirement")
    from jsonschema import exceptions, validators
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY, specification_with

    kind = validators.validator_for(found, default=None) if "$schema" in found else validators.Draft202012Validator
    if kind is None:
        raise UsageError(f"{where}: $schema is {found['$schema']!r:.80}, which is not a draft of JSON Schema")
    try:
        kind.check_schema(found)
    except exceptions.SchemaError as error:
        raise UsageError(
            f"{where}: is not a valid schema: {error.json_path}: {shorten_text(error.message, MAX_NOTE_CHARS)}"
        ) from None
    _require_resolvable_references(found, specification_with(kind.META_SCHEMA["$schema"]), where)
    validator = kind(found, registry=EMPTY_REGISTRY)

    def why(value: Any) -> str:
        try:
            error = exceptions.best_match(validator.iter_errors(value))
        except RecursionError:
            return "is nested too deeply to be validated"
        except Unresolvable as missing:
            return f"cannot be validated: {shorten_text(str(missing), MAX_NOTE_CHARS)}"
        return f"{error.json_path}: {shorten_text(error.message, MAX_NOTE_CHARS)}" if error else ""

    return why


def _require_resolvable_references(schema: Mapping[str, Any], specification: Any, where: str) -> None:
    """Raise UsageError on references to anything outside the schema."""
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.exceptions import Unresolvable

    root = Resource.from_contents(schema, default_specification=specification)
    waiting = [(root, REGISTRY.resolver_with_root(root))]
    while waiting:
        here, resolver = waiting.pop()
        contents = here.contents if isinstance(here.contents, Mapping) else {}
        for reference in (contents[key] for key in ("$ref", "$dynamicRef") if key in contents):
            try:
                resolver.lookup(reference)
            except Unresolvable:
                what = (
                    f'refers to "{reference}", which it does not contain; put it into "$defs", '
                    "since nothing is downloaded"
                )
                raise UsageError(f"{where}: {what}") from None
        waiting += [(inner, resolver.in_subresource(inner)) for inner in here.subresources()]
