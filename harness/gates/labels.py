"""A share of successes by what people say: labels of a random sample of the rows, and an instrument's values of all.

The labels alone would do; the instrument's values add what they tell of the other rows, however it errs. See
`harness.stats.two_phase` and docs/decisions/0123-labels-are-a-sample-of-the-rows.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.gates import agreement
from harness.records.metrics import Metric
from harness.records.samples import Labels, Score
from harness.stats.inputs import Clusters
from harness.stats.result import Test
from harness.stats.two_phase import TIE, estimate_labelled_share, two_phase_test


def labelled_share_test(
    metric: str, scores: Sequence[Score], clusters: Clusters | None, labels: Labels, threshold: float, alpha: float
) -> Test:
    """Test the share that people would give against a threshold. A tie counts one half.

    A row whose value is lost may be a success or none, and counts against either conclusion. Raises ValueError if
    fewer than two of the rows are labelled.
    """
    known = [i for i, score in enumerate(scores) if not score.lost]
    rows = [scores[i] for i in known]
    given = find_labels_of_rows(labels, rows)
    values, weights = [row.values[metric] for row in rows], [row.weight_of(metric) for row in rows]
    in_clusters = None if clusters is None else [clusters[i] for i in known]
    lost = math.fsum(score.with_value(0.0).weight_of(metric) for score in scores if score.lost)
    share = lost / (lost + math.fsum(weights))  # of the rows, whose successes are unknown

    def test(threshold: float) -> Test:
        return two_phase_test(values, given, threshold, alpha, weights, in_clusters)

    if not share:
        return test(threshold)
    # the thresholds of the known rows where all lost rows are failures, and where all are successes
    worst, best = threshold / (1 - share), (threshold - share) / (1 - share)
    low, high = test(min(worst, 1.0)), test(max(best, 0.0))
    return Test(
        low.estimate,
        low.lower * (1 - share),
        high.upper * (1 - share) + share,
        low.p_pass if worst < 1 else 1.0,
        high.p_fail if best > 0 else 1.0,
        low.method,
        len(scores),
        low.clusters,
    )


def find_labels_of_rows(labels: Labels, rows: Sequence[Score]) -> list[float | None]:
    """Return the label of each row, or None.

    Raises ValueError for labels that do not each name a row of their own, or are neither 0, 1 nor one half.
    """
    if len(labels.rows) != len(labels.truth):
        raise ValueError(f"the labels of {labels.metric} do not name their rows")
    if len(set(labels.rows)) < len(labels.rows):
        raise ValueError(f"a row has two labels of {labels.metric}")
    if not {0, TIE, 1}.issuperset(labels.truth):
        raise ValueError(f"a label of {labels.metric} is neither 0, 1 nor {TIE}")
    truth = dict(zip(labels.rows, labels.truth, strict=True))
    return [truth.get(row.id) for row in rows]


def value_with_labels(metric: Metric, scores: Sequence[Score], labels: Labels | None) -> float:
    """Return a metric's value: of the rows, or what people would give by their labels; NaN where nothing tells it."""
    if metric.is_agreement:
        return float(agreement.kappa_and_chance(agreement.confusion_tables(labels))[0]) if labels else math.nan
    if labels is None:
        return metric.value(scores)
    rows = [s for s in scores if s.weight_of(metric.name) and not s.lost]
    values, weights = [s.values[metric.name] for s in rows], [s.weight_of(metric.name) for s in rows]
    if not all(map(math.isfinite, values)):
        return math.nan
    try:
        return estimate_labelled_share(values, find_labels_of_rows(labels, rows), weights)
    except ValueError:
        return math.nan
