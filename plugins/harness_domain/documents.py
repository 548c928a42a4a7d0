"""Answers that are JSON documents: whether they parse, match a schema, and say what is wanted. `json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import Metric, Sample, Score, Subject, UsageError, evaluator, final_answers
from harness_domain import schemas, values

Matches = Callable[[Any], str]


def _metrics_for(options: Mapping[str, Any]) -> list[Metric]:
    names = ["parses", *(["valid"] if "schema" in options else [])]
    names += ["fields", "equal"] if options.get("compare", True) else []
    return [Metric(name, "higher", "proportion") for name in names]


def _check_rows(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on a schema that is none, and on targets that are no JSON or do not match it."""
    matches = schemas.matcher(options["schema"], folder) if "schema" in options else None
    if options.get("compare", True):
        for sample in samples:
            _wanted(sample, matches)


@evaluator(
    metrics_for=_metrics_for,
    check_rows=_check_rows,
    json_targets=True,
    needs=lambda options: ("jsonschema",) if "schema" in options else (),
)
def json(
    subject: Subject,
    samples: Sequence[Sample],
    *,
    folder: Path,
    schema: dict[str, Any] | str | None = None,
    compare: bool = True,
    find: Literal["whole", "fence", "first"] = "fence",
    ignore: tuple[str, ...] = (),
    max_new_tokens: int = 256,
    stop: tuple[str, ...] = (),
    thought: tuple[str, ...] = (),
) -> Iterator[Score]:
    """Score answers that are to be JSON: `parses`, `valid` by a schema, `fields` and `equal` by the row's target.

    `find` says where the JSON is: the "whole" answer, the same or all of it in one "fence" (```), or the "first" object
    in it, or list where the target is one or matches the schema; without such the first list. NaN, infinities and keys
    that stand twice are no JSON. `schema` is a JSON Schema, in the suite or in a file beside it, of Draft 2020-12
    unless its $schema says otherwise; nothing is fetched. `equal` is 1 where the answer is the target as a JSON value
    (1 is 1.0, the order of keys says nothing), `fields` the share of the target's fields that the answer has with the
    same value, those of objects in it too; `ignore` names paths that do not count ("customer.id"). With
    `compare = false` rows need no target. What does not parse has 0 of all. Raises UsageError on a schema that is none,
    and on a row whose target is no JSON or does not match it.
    """
    matches = schemas.matcher(schema, folder) if schema is not None else None
    wanted = [values.without(_wanted(s, matches), ignore) if compare else None for s in samples]
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "thought": thought}
    found = final_answers(subject, [s.input for s in samples], **how)
    for sample, target, (said, whole) in zip(samples, wanted, found, strict=True):
        details = {"generated": whole} if thought else {}
        try:
            value = _read(said, find, matches, target)
        except ValueError as error:
            nothing = {m.name: 0.0 for m in _metrics_for({"compare": compare, **({"schema": 1} if matches else {})})}
            yield Score(sample.id, nothing, answer=said, note=f"does not parse: {error}", details=details)
            continue
        why = matches(value) if matches else ""
        scores = {"parses": 1.0, **({"valid": float(not why)} if matches else {})}
        if compare:
            scores |= _compared(values.without(value, ignore), target)
        yield Score(sample.id, scores, answer=said, note=why or None, details=details)


def _read(answer: str, find: str, matches: Matches | None, target: Any) -> Any:
    text = answer.strip().removeprefix(values.BOM).strip()
    if find == "first":
        fits = matches or (lambda _: "" if isinstance(target, list) else "no list")
        return values.parse_first(text, lambda value: isinstance(value, dict) or not fits(value))
    fenced = values.FENCE.fullmatch(text) if find == "fence" else None
    return values.parse(fenced[1] if fenced else text)


def _compared(value: Any, target: Any) -> dict[str, float]:
    same = values.equal(value, target)
    ours, theirs = values.leaves(value), values.leaves(target)
    right = sum(path in ours and values.equal(ours[path], leaf) for path, leaf in theirs.items())
    return {"fields": right / len(theirs) if theirs else float(same), "equal": float(same)}


def _wanted(sample: Sample, matches: Matches | None) -> Any:
    """Return the value that a row wants; raises UsageError where it is none."""
    if not isinstance(sample.target, str) or not sample.target.strip():
        what = "target is missing or empty; map a column to it, or say compare = false"
        raise UsageError(f'row "{sample.id}": {what}')
    try:
        value = values.parse(sample.target)
    except ValueError as error:
        raise UsageError(f'row "{sample.id}": the target {sample.target!r:.60} is no JSON: {error}') from None
    if matches and (why := matches(value)):
        raise UsageError(f'row "{sample.id}": the target does not match the schema: {why}')
    return value
