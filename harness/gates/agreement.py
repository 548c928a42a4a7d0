"""How far an instrument and people agree: Cohen's kappa of labels, of which those of one prompt are one observation.

Arrays may have axes before those named, so that a simulation judges many data sets in one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from harness.records.samples import Labels
from harness.stats.arrays import Floats, np, special
from harness.stats.inputs import number_clusters
from harness.stats.result import Test

NEAR_ONE = 1e-9  # by which a kappa stays away from -1, where Fisher's scale ends


def kappa_test(labels: Labels, threshold: float, alpha: float) -> Test:
    """Test the kappa of people and instrument against a threshold.

    It is Cohen's kappa; the labels of one prompt are one observation. The test is Student's t of the clusters'
    jackknife, on Fisher's scale artanh(kappa) with half of a cluster's disagreement added; to refute the claim also on
    kappa's own scale. If all labels agree, p_pass is the probability that no cluster disagrees. Raises ValueError if
    there are fewer than two clusters, or if chance alone would give full agreement.

    Source: Cohen 1960, Educational and Psychological Measurement 20:37.
    """
    tables = confusion_tables(labels)
    count = len(tables)
    if count < 2:
        raise ValueError(f"there are labels for {count} prompts; agreement needs labels for at least 2")
    value, chance = (float(x) for x in kappa_and_chance(tables))
    if chance >= 1:
        raise ValueError("all labels of people and judge are the same; agreement needs labels of more than one kind")
    p_pass, p_fail = (float(p) for p in kappa_p(tables, threshold))
    method = f"kappa of {len(labels.truth)} labels"
    return Test(value, *_compute_kappa_bounds(tables, alpha), p_pass, p_fail, method, len(labels.truth), count)


def confusion_tables(labels: Labels) -> Floats:
    """Count the labels of each cluster by kind.

    The kinds are those of people and of the instrument, so the shape is (G, 3, 3).
    """
    groups = number_clusters(labels.clusters)
    tables = np.zeros((int(groups.max()) + 1 if len(groups) else 0, 3, 3))
    ours = np.sign(np.asarray(labels.said) - 0.5).astype(int) + 1
    np.add.at(tables, (groups, np.round(2 * np.asarray(labels.truth)).astype(int), ours), 1.0)
    return tables


def kappa_and_chance(tables: Floats) -> tuple[Floats, Floats]:
    """Return overall Cohen's kappa and chance agreement. `tables` is (G, 3, 3)."""
    return _make_leave_one_out_counts(tables)[0].whole


def kappa_p(tables: Floats, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of kappa against a threshold. Undefined p-values become 1."""
    of, fewer = _make_leave_one_out_counts(tables)
    value, chance = of.whole
    df, limit = of.count - 1, np.arctanh(max(threshold, NEAR_ONE - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (of.artanh() - limit) / _estimate_jackknife_error(fewer.artanh())
        none = (1 - (1 - threshold) * (1 - chance)) ** of.count
        p_pass = np.where(value == 1, none, special.stdtr(df, -t))
        p_fail = np.maximum(
            special.stdtr(df, t), special.stdtr(df, (value - threshold) / _estimate_jackknife_error(fewer.whole[0]))
        )
    p_fail = np.where(value >= threshold, 1.0, p_fail)
    return np.nan_to_num(p_pass, nan=1.0), np.nan_to_num(p_fail, nan=1.0)


def _compute_kappa_bounds(tables: Floats, alpha: float) -> tuple[float, float]:
    """Return the one-sided bounds, each at alpha, that invert `kappa_p`. For one data set only."""
    of, fewer = _make_leave_one_out_counts(tables)
    value, chance = (float(x) for x in of.whole)
    if value == 1:
        return max(1 - (1 - alpha ** (1 / of.count)) / (1 - chance), -1.0), 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        place, error, plain = map(
            float, (of.artanh(), _estimate_jackknife_error(fewer.artanh()), _estimate_jackknife_error(fewer.whole[0]))
        )
    if not math.isfinite(error + plain):
        return -1.0, 1.0
    reach = -float(special.stdtrit(of.count - 1, alpha))
    return math.tanh(place - reach * error), min(max(math.tanh(place + reach * error), value + reach * plain), 1.0)


@dataclass(frozen=True)
class _LabelCounts:
    """Counts of agreeing labels and of each kind, over clusters.

    `alike` counts agreeing labels, `people` and `judged` the labels of each kind, `count` the clusters.
    """

    count: int
    alike: Floats  # (...)
    people: Floats  # (..., 3)
    judged: Floats

    @cached_property
    def chance(self) -> tuple[Floats, Floats]:
        """The share of labels that disagree, and the chance agreement."""
        n = self.people.sum(-1)
        return 1 - self.alike / n, (self.people * self.judged).sum(-1) / n**2

    @property
    def whole(self) -> tuple[Floats, Floats]:
        with np.errstate(divide="ignore", invalid="ignore"):
            differ, chance = self.chance
            return 1 - differ / (1 - chance), chance

    def artanh(self) -> Floats:
        """Return artanh(kappa) with half a cluster's disagreement added."""
        differ, chance = self.chance
        added = 0.5 / self.count
        share = np.minimum((differ + added) / (1 + added) / (1 - chance), 2 - NEAR_ONE)  # 1 - kappa
        return np.asarray(np.log((2 - share) / share) / 2)


def _make_leave_one_out_counts(tables: Floats) -> tuple[_LabelCounts, _LabelCounts]:
    """Count labels over all clusters and without each, (..., G)."""
    each = np.einsum("...ii->...", tables), tables.sum(-1), tables.sum(-2)
    alike, people, judged = each[0].sum(-1), each[1].sum(-2), each[2].sum(-2)
    rest = alike[..., None] - each[0], people[..., None, :] - each[1], judged[..., None, :] - each[2]
    count = tables.shape[-3]
    return _LabelCounts(count, alike, people, judged), _LabelCounts(count - 1, *rest)


def _estimate_jackknife_error(without: Floats) -> Floats:
    """Return the jackknife standard error from leave-one-cluster-out estimates (..., G)."""
    count, apart = without.shape[-1], without - without.mean(-1, keepdims=True)
    return np.asarray(np.sqrt((count - 1) / count * (apart**2).sum(-1)))
