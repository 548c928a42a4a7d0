"""Whether a prompted baseline is one: it must beat the constant answer and the base without worked examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from harness.collection.collection import Task
from harness.evaluation.checks import quote_text
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample

# evaluators of which a constant answer scores its share of the rows
CONSTANT_ANSWER_EVALUATORS = ("exact_match", "multiple_choice")
MOST_LABELS = 50
BASELINE_RISK = 0.05  # of calling a baseline weaker than the base where both are alike


def find_weakness(task: Task, metric: Metric, baseline: Result, base: Result | None) -> str:
    """Return why a prompted baseline proves nothing: it scores less than one answer to all rows, or than the base.

    Less than the base is judged row by row with the sign test at 5 %. Returns "" for a baseline that is sound.
    """
    value, ids = baseline.metrics.get(metric.name, math.nan), {s.id for s in baseline.scores}
    answer, share = find_constant_answer([s for s in task.samples or () if s.id in ids], task)
    if task.spec.use in CONSTANT_ANSWER_EVALUATORS and metric.is_share and value < share:
        return f"{value:.3f}, less than the constant answer {quote_text(answer, 40)} ({share:.3f})"
    if base is None or metric.is_count or metric.combine:
        return ""
    ours, theirs = ({s.id: s.values.get(metric.name, math.nan) for s in one.scores} for one in (baseline, base))
    sign = 1 if metric.better == "higher" else -1
    gains = [sign * (value - theirs[i]) for i, value in ours.items() if i in theirs]
    lost, won = sum(gain < 0 for gain in gains), sum(gain > 0 for gain in gains)
    if lost > won and _compute_sign_test_p(won, lost) <= BASELINE_RISK:
        return f"{value:.3f}, less than the base without examples ({base.metrics.get(metric.name, math.nan):.3f})"
    return ""


def find_constant_answer(samples: Sequence[Sample], task: Task) -> tuple[str, float]:
    """Return the most frequent answer and its share of the rows.

    Returns ("", 0.0) unless the answers are few enough to be labels.
    """
    gold = str(task.spec.options.get("gold", "gold"))
    targets = [next((t.strip() for t in s.targets if t.strip()), "") for s in samples]
    answers = Counter(t or str(s.row.get(gold, "")) for t, s in zip(targets, samples, strict=True))
    answers.pop("", None)
    if not answers or len(answers) > min(MOST_LABELS, len(samples) / 2):
        return "", 0.0
    (answer, often), *_ = answers.most_common(1)
    return answer, often / len(samples)


def _compute_sign_test_p(won: int, lost: int) -> float:
    """Return the one-sided p-value of the exact binomial sign test."""
    return float(sum(math.comb(won + lost, k) for k in range(lost, won + lost + 1)) / 2 ** (won + lost))
