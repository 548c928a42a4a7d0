"""Multiple choice by log-likelihood: which of the row's choices is the likeliest continuation of its input."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Sample, Score, Subject, UsageError, evaluator, metric, target_as_continuation
from harness.internals import find_choice_index


def _require_distinct_choices(options: Mapping[str, Any], folder: Path, model: str) -> None:
    """Raise UsageError unless listed choices are two or more distinct texts."""
    given = options.get("choices")
    if isinstance(given, list) and (len(given) < 2 or not all(given) or len(set(given)) < len(given)):
        twice = next((c for c, n in Counter(given).items() if n > 1), None)
        what = f'has "{twice}" twice' if twice else f"is {given!r}"
        raise UsageError(f"choices {what}; give two or more texts, all different and not empty")


def _require_valid_choices_and_gold(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on a row with invalid choices or gold."""
    _require_distinct_choices(options, folder, "")
    choices, gold = options.get("choices", "choices"), options.get("gold", "gold")
    for sample in samples:
        right_choice(sample, gold, *row_choices(sample, choices))


@metric("acc", better="higher", scale="proportion")
@metric("acc_norm", better="higher", scale="proportion")
@evaluator(check=_require_distinct_choices, check_rows=_require_valid_choices_and_gold)
def multiple_choice(
    subject: Subject, samples: Sequence[Sample], *,
    choices: str | list[str] = "choices", gold: str = "gold", delimiter: str | None = None,
) -> Iterator[Score]:  # fmt: skip
    """Score 1 if the likeliest choice is correct.

    The formulas are lm-evaluation-harness's: log-probabilities summed over the choice's tokens; `acc_norm` divides them
    by the characters of the choice without the delimiter; the first wins a tie, which the note then calls "uniform".
    Column `choices` holds a list of texts, or {text, label}, or `choices` is itself the list for all rows. Column
    `gold` holds the correct one: its label, else its text, else its letter from A, else its number from 0; without that
    column the row's target holds it. After a text prompt a choice follows the delimiter, one space unless the prompt
    ends in white space, and after chat messages the template's turn. A log-probability that is not finite makes the row
    NaN. Raises UsageError on a row with invalid columns.
    """
    found = [row_choices(s, choices) for s in samples]
    right = [right_choice(s, gold, *one) for s, one in zip(samples, found, strict=True)]
    each = [(s.input, text) for s, (options, _) in zip(samples, found, strict=True) for text in options]
    own = delimiter is not None  # else as a training joins them
    pairs = [(p, f"{delimiter}{t}" if own and isinstance(p, str) else target_as_continuation(p, t)) for p, t in each]
    scored = iter(subject.logprobs(pairs))  # all rows in one call: that is what lets their prompts be shared
    for sample, (options, _), index in zip(samples, found, right, strict=True):
        totals = [next(scored).total for _ in options]
        if not all(map(math.isfinite, totals)):
            yield Score(sample.id, {"acc": math.nan, "acc_norm": math.nan}, note="a log-probability is not finite")
            continue
        norms = [total / len(text) for total, text in zip(totals, options, strict=True)]
        chosen, by_length = (max(range(len(some)), key=some.__getitem__) for some in (totals, norms))
        values = {"acc": float(chosen == index), "acc_norm": float(by_length == index)}
        note = "uniform" if totals.count(totals[chosen]) > 1 else None
        odds = {"probability": 1 / sum(math.exp(t - totals[chosen]) for t in totals)}  # of the chosen, were one true
        yield Score(sample.id, values, answer=options[chosen], note=note, details=odds)


def row_choices(sample: Sample, column: str | list[str]) -> tuple[list[str], list[str]]:
    """Return a row's choices and their labels, if any. Raises UsageError if the column is missing or invalid."""
    if isinstance(column, list):
        return column, []  # `_require_distinct_choices` has looked at it
    given = sample.row.get(column)
    found, labels = (given.get("text"), given.get("label", [])) if isinstance(given, dict) else (given, [])
    where = f'row "{sample.id}": column "{column}"'
    if found is None:
        several = [part.strip() for part in column.split(",")]
        instead = f", or write choices = {json.dumps(several)}" if len(several) > 1 else ""
        raise UsageError(f"{where} is missing; name the column of the choices{instead}")
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(c, str) and c for c in found):
        raise UsageError(f"{where} is {found!r}; it must be a list of texts that are not empty")
    if len(set(found)) < len(found) or len(found) < 2:
        raise UsageError(f"{where} is {found!r}; it must have two or more choices, all different")
    if not isinstance(labels, list):
        raise UsageError(f"{where} has {labels!r} as its label; it must be a list")
    if labels and len(labels) != len(found):
        raise UsageError(f"{where} has {len(labels)} labels for {len(found)} choices; give one for each")
    return list(found), labels


def right_choice(sample: Sample, column: str, options: Sequence[str], labels: Sequence[str]) -> int:
    """Return the number of the right choice, from 0."""
    said: Any = sample.row.get(column, sample.target)
    if (index := find_choice_index(said, options, labels)) is not None:
        return index
    wanted = f'a choice, its letter, or its number from 0 to {len(options) - 1}, in column "{column}" or as the target'
    raise UsageError(f'row "{sample.id}": the right choice is {sample.row.get(column, sample.target)!r}; give {wanted}')
