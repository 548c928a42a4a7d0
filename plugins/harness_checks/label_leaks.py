"""D23-label: labels that stand in their own prompt, in a column of the template or in the text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from harness import Sample, Severity, quote_text
from harness.internals import Task, prompt_text, template_columns

MIN_ROWS, MAX_LABELS = 20, 50
MIN_AGREEMENT = 0.95  # of the rows in which the prompt gives the label away
MAX_MAJORITY_SHARE = 0.9  # share of the commonest label, above which nothing can be said
HasWords = Callable[[str, str], bool]


def find_label_leak(
    task: Task, samples: Sequence[Sample], targets: Mapping[str, str], has_words: HasWords
) -> tuple[Severity, str, dict[str, str]] | None:
    """Return how the prompts give their labels away: a severity, what is found, and evidence by row.

    `targets` are the right answers by row. A column of the template that equals the label, or determines it, is
    certain; a label that alone of all stands in the prompt's text, in nearly all rows, may be what is asked for.
    """
    labelled = [s for s in samples if targets.get(s.id, "").strip()]
    rows = [*{(prompt_text(s.input), targets[s.id]): s for s in labelled}.values()]  # repeats of a row show nothing
    labels = Counter(targets[s.id].strip().casefold() for s in rows)
    if len(rows) < MIN_ROWS or not 2 <= len(labels) <= min(MAX_LABELS, len(rows) / 2):
        return None
    if max(labels.values()) > MAX_MAJORITY_SHARE * len(rows):
        return None
    for column in template_columns(task.spec.template) if task.spec.template else []:
        values = [str(s.row.get(column, "")).strip() for s in rows]
        wanted = [targets[s.id].strip() for s in rows]
        if _does_column_predict_labels(values, wanted):
            lines = {
                s.id: f"{quote_text(v, 30)} → {quote_text(t, 30)}" for s, v, t in zip(rows, values, wanted, strict=True)
            }
            equal = sum(
                v.casefold() == t.casefold() for v, t in zip(values, wanted, strict=True)
            ) >= MIN_AGREEMENT * len(rows)
            how = "contains the label" if equal else "determines the label"
            return "error" if equal else "warning", f'the column "{column}" of the template {how}', lines
    found = {}
    for s in rows:
        prompt = prompt_text(s.input).casefold()
        inside = [label for label in labels if has_words(prompt, label)]
        if inside == [targets[s.id].strip().casefold()]:
            found[s.id] = f"{quote_text(targets[s.id].strip(), 30)} in {quote_text(prompt_text(s.input), 60)}"
    return ("warning", "the label is in its own prompt", found) if len(found) >= MIN_AGREEMENT * len(rows) else None


def _does_column_predict_labels(values: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether few column values determine nearly all labels."""
    by_value: dict[str, Counter[str]] = defaultdict(Counter)
    for value, label in zip(values, wanted, strict=True):
        by_value[value.casefold()][label.casefold()] += 1
    if not 2 <= len(by_value) <= min(MAX_LABELS, len(values) / 4):
        return False
    return sum(max(counts.values()) for counts in by_value.values()) >= MIN_AGREEMENT * len(values)
