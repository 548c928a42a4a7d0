"""Which metric of a file is meant, which way is better and how its rows combine: told, or known by name, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

from harness import Metric, Scale, UsageError, did_you_mean
from harness.internals import shown
from harness_rows.readers.asking import is_equal
from harness_rows.records import Better, RawRow, RawRows, Wanted

SHARES = {
    "acc", "acc_norm", "accuracy", "contains", "correct", "em", "exact_match", "f1", "includes", "is_correct", "match",
    "pass", "pass@1", "pass_rate", "passed", "precision", "recall", "success", "win_rate",
}  # fmt: skip
HIGHER = {*SHARES, "auc", "bertscore", "bleu", "chrf", "mcc", "meteor", "reward", "rouge1", "rouge2", "rougel"}
LOWER = {
    "bits_per_byte", "brier_score", "byte_perplexity", "cer", "error", "error_rate", "hallucination", "loss", "mae",
    "mse", "nll", "perplexity", "rmse", "ter", "toxicity", "wer", "word_perplexity",
}  # fmt: skip
LARGEST = 1e100  # of a score: sums of such are numbers


def choose(runs: Sequence[RawRows], want: Wanted) -> tuple[Metric, str]:
    """Return the metric that is meant, and by what its direction is known. Raises UsageError if not settled."""
    first = runs[0]
    unread = {n: m.unreadable for run in runs for n, m in run.metrics.items() if m.unreadable}
    readable = [n for n in first.metrics if n not in unread and all(n in run.metrics for run in runs)]
    where = shown(first.task)
    if want.metric in unread:
        raise UsageError(f'{where}: "{want.metric}" {unread[want.metric]}; it cannot be read from these rows')
    if want.metric and want.metric not in readable:
        raise UsageError(f'{where}: no metric "{want.metric}"{did_you_mean(want.metric, readable)}')
    if not want.metric and len(readable) != 1:
        known = ", ".join(f"{shown(n)} ({_mean(first.rows, n):.3g})" for n in readable)
        what = f"has metrics {known}; name one, --metric {shown(readable[0])}" if readable else "has no metric to read"
        raise UsageError(f"{where}: {what}")
    name = want.metric or readable[0]
    values = [v for run in runs for row in run.rows if (v := row.values.get(name)) is not None]
    if odd := [v for v in values if not abs(v) <= LARGEST]:
        raise UsageError(f"{where}: {shown(name)} is {odd[0]:g} on {len(odd):,} rows, which is no score")
    known, is_binary = name.lower().replace("-", "_"), set(values) <= {0.0, 1.0}
    scale = want.scale or _one(runs, name, "scale") or ("proportion" if known in SHARES or is_binary else "mean")
    if want.better:
        better, because = str(want.better), "as said"
    elif told := _one(runs, name, "better"):
        better, because = told, "says the file"
    elif known in HIGHER or known in LOWER:
        better, because = "lower" if known in LOWER else "higher", "by its name"
    elif is_binary:
        better, because = "higher", "every value is 0 or 1"
    else:
        say = 'say --higher or --lower, which is better = "higher" in a suite and in Python'
        raise UsageError(f"{shown(name)}: which direction is better is not known; {say}")
    metric = Metric(name, cast("Better", better), cast("Scale", scale))
    if metric.is_share and (beyond := [v for v in values if not 0 <= v <= 1]):
        raise UsageError(f"{shown(name)}: {beyond[0]:g} is no share; divide by 100, or say --scale mean")
    for run in runs:
        _check_sum(run, metric)
    return metric, because


def weight_of(row: RawRow, name: str) -> float:
    """Return what a row counts in a metric."""
    return row.weight * row.lengths.get(name, 1.0)


def _one(runs: Sequence[RawRows], name: str, what: str) -> str:
    """Return what files tell of a metric, all of them the same. Raises UsageError where they do not."""
    told = {str(v) for run in runs if (v := getattr(run.metrics[name], what)) is not None}
    if len(told) > 1:
        raise UsageError(f"{shown(name)}: {what} is {' and '.join(sorted(told))}; the runs mean other metrics by it")
    return next(iter(told), "")


def _check_sum(run: RawRows, metric: Metric) -> None:
    """Raise UsageError where a tool's own number over its scored rows is not what these rows make."""
    if (total := run.metrics[metric.name].total) is None:
        return
    rows = [(v, weight_of(row, metric.name)) for row in run.rows if (v := row.values.get(metric.name)) is not None]
    whole = math.fsum(w for _, w in rows)
    found = metric.unline(math.fsum(v * w for v, w in rows) / whole) if whole else math.nan
    if not is_equal(found, total):
        what = f"the rows give {found:.6g}, its results file says {total:.6g}"
        raise UsageError(f"{shown(run.task)} {metric.name}: {what}; the file is cut, or of another run")


def _mean(rows: Iterable[RawRow], name: str) -> float:
    values = [v for row in rows if (v := row.values.get(name)) is not None and abs(v) <= LARGEST]
    return math.fsum(values) / len(values) if values else math.nan


def worst_of(metric: Metric) -> float | None:
    """Return the worst value that a row may have, where the scale has one."""
    return (0.0 if metric.better == "higher" else 1.0) if metric.is_share else None
