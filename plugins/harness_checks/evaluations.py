"""D23: evaluations that no model can fail, or that none can be right in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Finding, Gate, ModelRef, Sample, checker, quote_text
from harness.internals import (
    Suite,
    Task,
    describe_few_rows_power,
    encoding,
    fold_case,
    group_by_question,
    prompt_text,
    schema,
)
from harness_checks.label_leaks import find_label_leak
from harness_checks.lint import count_of_total, is_blank_sample
from harness_checks.settings import find_weak_settings

# where one prompt has one right answer
ONE_ANSWER_EVALUATORS = ("exact_match", "contains", "numeric", "multiple_choice")
CASE_EVALUATORS = ("exact_match", "contains", "token_f1")
MAX_ROW_SHARE = 0.05  # of the rows
MAX_SHARE = 0.8  # of an answer, or of the rows
LONG_FRAME = 24  # characters that all answers have in common
MIN_TARGETS = 8  # different ones
MAX_CHANCE = 0.01  # that the first choice is never right
LABELS = r"(?:answer|response|output|solution|label|completion|target|antwort|a)"
BITS_PER_BYTE = 8  # of a byte that is guessed


@checker(title="uninformative-evaluations")
def uninformative(tasks: Mapping[str, Task], suite: Suite, gates: Sequence[Gate], base: ModelRef) -> Iterator[Finding]:
    """Rows and gates that do not distinguish models.

    Every model or no model gets such rows right, and such gates cannot fail. Kinds of this finding: -conflict, one
    prompt with several targets, so that at most one row can be right; -case, targets that differ only in case where
    case is ignored; -choices, choices that differ only in white space; -gold, right choices that are numbered from 1;
    -echo, targets of `contains` that occur in their prompt, so that an answer that repeats it is right; -answer,
    prompts that end with their answer; -frame, scored answers that are nearly all alike, so that a wrong word in them
    hardly counts; -label, labels that their own prompt gives away, by a column of the template or because no other
    label occurs in it; -gate, a limit that a guessing model keeps; -limit, a few rows that a `limit` leaves;
    -rows, so few rows that the gate is more likely not to pass than to; -alpha, a
    risk above 0.2; -pattern, a `regex` that an empty answer matches; -blocking, gates that all only warn.
    """
    for name, task in tasks.items():
        samples = [s for s in task.samples or () if not is_blank_sample(task, s)]  # D11-blank tells of the others
        if task.brings_rows or not samples:
            continue
        for kind, rows, what, fix in (
            ("conflict", _find_conflicts(task, samples), "the same prompt has another target", "keep the right target"),
            (
                "case",
                _find_targets_differing_in_case(task, samples),
                "targets differ in case, which is ignored",
                "set ignore_case = false",
            ),
            ("choices", _find_choices(task, samples), "choices differ only in white space", "make them different"),
            ("gold", _find_gold(task, samples), "the first choice is never right", "number the choices from 0"),
            (
                "echo",
                _find_targets_in_prompts(task, samples),
                "the target is contained in the prompt",
                'use = "exact_match"',
            ),
            (
                "answer",
                _find_labelled_answers_in_prompts(samples),
                "the prompt ends with its answer",
                "remove it from the prompt",
            ),
            (
                "frame",
                _find_mostly_shared_targets(task, samples),
                "the scored text is nearly the same in all rows",
                "score only the answer",
            ),
        ):
            if rows:
                lines = [f'row "{i}": {line}' for i, line in rows.items()]
                line = f'{count_of_total(len(rows), len(samples))} of "{name}": {what}'
                yield Finding("warning", line, lines, fix, kind, {name: [*rows]})
        if leak := find_label_leak(task, samples, {s.id: _resolve_gold_to_text(task, s) for s in samples}, has_words):
            severity, what, rows = leak
            line = f'{count_of_total(len(rows), len(samples))} of "{name}": {what}'
            fix = "remove it from the prompt, unless it is known when the model is used"
            yield Finding(severity, line, [f'row "{i}": {x}' for i, x in rows.items()], fix, "label", {name: [*rows]})
    yield from _check_gates_can_fail(tasks, gates, Path(base.path))
    yield from _check_gates_have_enough_rows(tasks, suite, gates)
    yield from find_weak_settings(tasks, suite, gates)


def _check_gates_have_enough_rows(tasks: Mapping[str, Task], suite: Suite, gates: Sequence[Gate]) -> Iterator[Finding]:
    """Yield findings for gates on few rows that `harness plan` gives little chance."""
    for gate in gates:
        if gate.eval in tasks and (why := describe_few_rows_power(gate, tasks[gate.eval], suite)):
            yield Finding("warning", f'gate "{gate.id}": {why}', (), "add rows, or claim less (harness plan)", "rows")


def _find_conflicts(task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Return rows that repeat a prompt with another target."""
    if task.spec.use not in ONE_ANSWER_EVALUATORS:
        return {}
    questions = []
    for s in samples:
        choices, _ = _parse_choices_and_labels(task, s)
        questions.append(f"{s.input if isinstance(s.input, str) else repr(s.input)}\n{choices}")
    found = {}
    for group in group_by_question(questions):
        same = [samples[i] for i in group]
        wanted = [
            {_normalize_case_and_punctuation(_read_gold_unless_label(task, s))}
            if _parse_choices_and_labels(task, s)[0]
            else {*map(_normalize_case_and_punctuation, s.targets)}
            for s in same
        ]
        for s, mine in zip(same[1:], wanted[1:], strict=True):
            nested = any(a in b or b in a for a in mine for b in wanted[0]) and task.spec.use == "contains"
            if mine and wanted[0] and not mine & wanted[0] and not nested:
                found[s.id] = (
                    f"{quote_text(prompt_text(s.input), 40)} → "
                    f"{quote_text(min(wanted[0]), 30)} and {quote_text(min(mine), 30)}"
                )
    return found


def _find_targets_differing_in_case(task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Return rows with targets that differ only in case. Empty if case counts."""
    if task.spec.use not in CASE_EVALUATORS or not schema.with_defaults(task.function, task.spec.options).get(
        "ignore_case"
    ):
        return {}
    written: dict[str, str] = {}
    found = {}
    for s, target in ((s, s.targets[0].strip()) for s in samples if s.targets):
        if (first := written.setdefault(fold_case(target), target)) != target:
            found[s.id] = f"{quote_text(target, 40)} equals {quote_text(first, 40)}"
    return found


def _find_choices(task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Return rows with two choices that differ only in white space."""
    found = {}
    for s in samples:
        choices, _ = _parse_choices_and_labels(task, s)
        first: dict[str, str] = {}
        twins = [c for c in choices if first.setdefault(" ".join(c.split()), c) != c]
        if twins:
            found[s.id] = f"{first[' '.join(twins[0].split())]!r} and {twins[0]!r}"
    return found


def _find_gold(task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Return all rows if their right choices seem numbered from 1.

    They are numbers and never 0, which chance does not explain.
    """
    numbers, chance = list[int](), 1.0
    for s in samples:
        choices, _ = _parse_choices_and_labels(task, s)
        gold = _read_gold_unless_label(task, s)
        if not choices or gold in choices or not gold.isdecimal():
            return {}
        numbers.append(int(gold))
        chance *= 1 - 1 / len(choices)
    if not numbers or min(numbers) == 0 or chance > MAX_CHANCE:
        return {}
    return {
        s.id: f"{number} of {len(_parse_choices_and_labels(task, s)[0])}"
        for s, number in zip(samples, numbers, strict=True)
    }


def _find_targets_in_prompts(task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Return rows of `contains` with their target in the prompt.

    It must be there as whole words. Empty if such rows are few.
    """
    if task.spec.use != "contains":
        return {}
    found = {}
    for s in samples:
        prompt = fold_case(prompt_text(s.input))
        if hit := next((t for t in s.targets if t.strip() and has_words(prompt, fold_case(t.strip()))), None):
            found[s.id] = f"{quote_text(hit, 30)} in {quote_text(prompt_text(s.input), 60)}"
    return found if len(found) >= MAX_ROW_SHARE * len(samples) else {}


def has_words(text: str, words: str) -> bool:
    """Return whether a text has these as whole words."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _find_labelled_answers_in_prompts(samples: Sequence[Sample]) -> dict[str, str]:
    """Return rows with prompts that end with the labelled target.

    A label is a word such as "Answer:". Empty if such rows are few.
    """
    found = {}
    for s in samples:
        end = prompt_text(s.input).rstrip()[-400:]
        for target in (t.strip() for t in s.targets if t.strip()):
            if re.search(rf"(?:^|\W){LABELS}\s*[:=]\s*{re.escape(target)}$", end, re.IGNORECASE):
                found[s.id] = quote_text(f"…{end[-50:]}", 60)
    return found if len(found) >= MAX_ROW_SHARE * len(samples) else {}


def _find_mostly_shared_targets(task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Return all rows if their scored targets share most text.

    Only targets that a perplexity scores; the shared text is at their beginning and end.
    """
    targets = [s.targets[0] for s in samples if s.targets]
    if task.spec.use != "perplexity" or task.spec.options.get("of") != "completion" or len({*targets}) < MIN_TARGETS:
        return {}
    before = min(encoding.shared_length(targets[0], t) for t in targets)
    ends = [t[before:][::-1] for t in targets]
    after = min(encoding.shared_length(ends[0], t) for t in ends)
    if before + after < LONG_FRAME or (before + after) * len(targets) < MAX_SHARE * sum(map(len, targets)):
        return {}
    return {
        s.id: f"all but {quote_text(s.targets[0][before : len(s.targets[0]) - after], 40)}"
        for s in samples
        if s.targets
    }


def _check_gates_can_fail(tasks: Mapping[str, Task], gates: Sequence[Gate], folder: Path) -> Iterator[Finding]:
    """Yield findings for gates that no model can fail.

    A limit is also reported if a model that guesses evenly keeps it.
    """
    for gate in gates:
        task = tasks.get(gate.eval)
        if not task or not (metric := task.metrics.get(gate.metric_name)):
            continue
        why, (low, high) = "", (0.0, 1.0) if metric.is_share else (None, None)
        if gate.min is not None and low is not None and gate.min <= low:
            why = f"{gate.metric} is at least {low:g} for any model"
        if gate.max is not None and high is not None and gate.max >= high:
            why = f"{gate.metric} is at most {high:g} for any model"
        if gate.max is not None and metric.name == "bits_per_byte" and gate.max >= BITS_PER_BYTE:
            why = f"a model that guesses each byte has {BITS_PER_BYTE}"
        if (
            gate.max is not None
            and metric.name == "perplexity"
            and (size := _read_vocabulary_size(folder))
            and gate.max >= size
        ):
            why = f"a model that guesses evenly among its {size:,} tokens has {size:,}"
        if why:
            limit = f"min = {gate.min:g}" if gate.max is None else f"max = {gate.max:g}"
            what = f'gate "{gate.id}" proves nothing: {limit}, but {why}'
            yield Finding(
                "warning", what, (), "choose a limit that a bad model misses, or compare with the base", "gate"
            )


def _read_vocabulary_size(folder: Path) -> int:
    """Return the vocabulary size in a base's config.json, or 0."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return int((config.get("text_config") or config)["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def _parse_choices_and_labels(task: Task, sample: Sample) -> tuple[list[str], list[Any]]:
    """Return a row's choices and their labels. Empty except for `multiple_choice`."""
    if task.spec.use != "multiple_choice":
        return [], []
    column = task.spec.options.get("choices", "choices")
    given = column if isinstance(column, list) else sample.row.get(column)
    found, labels = (given.get("text"), given.get("label")) if isinstance(given, dict) else (given, [])
    texts = [c for c in found if isinstance(c, str)] if isinstance(found, list) else []
    return texts, labels if isinstance(labels, list) else []


def _read_gold_unless_label(task: Task, sample: Sample) -> str:
    """Return the right choice as given in its row. Empty if it is a label."""
    said = sample.row.get(str(task.spec.options.get("gold", "gold")), sample.target)
    return "" if said in _parse_choices_and_labels(task, sample)[1] else str(said)


def _resolve_gold_to_text(task: Task, sample: Sample) -> str:
    """Return the right label of a row as a text: that of a choice where its gold is a letter or a number."""
    if not (choices := _parse_choices_and_labels(task, sample)[0]):
        return str(sample.targets[0]) if sample.targets else ""
    gold = _read_gold_unless_label(task, sample)
    if gold in choices:
        return gold
    index = int(gold) if gold.isdecimal() else ord(gold) - ord("A") if len(gold) == 1 else -1
    return choices[index] if 0 <= index < len(choices) else ""


def _normalize_case_and_punctuation(text: str) -> str:
    return " ".join(fold_case(re.sub(r"[^\w\s.+\-]", "", text)).split()).rstrip(".")
