"""What people's labels say of a metric that an instrument measures: a share corrected by them, and their agreement.

The correction assumes that the instrument errs alike, given what people would say, on the labelled answers and on the
rows that are judged; how often people prefer one side may differ. So it is not prediction-powered inference, which
takes the labels for a sample of the rows (docs/decisions/0070-labels.md). How often each is wrong stands in
docs/how-to/use-a-judge.md.

Arrays may have axes before those named, so that a simulation judges many data sets in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness.records.metrics import Metric
from harness.records.samples import Labels, Score
from harness.stats.inputs import numbered
from harness.stats.result import Test

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

KINDS = (0.0, 0.5, 1.0)  # what people say: the baseline's or not met, a tie, the candidate's or met
PSEUDO = 1 / 3  # of a label with each value, added to each kind: few that agree are no proof that all do
SHARES = 41  # shares of ties that are tried
STEPS = 30  # of a bisection: 1e-9 of its range


@dataclass(frozen=True)
class Moments:
    """Means of an instrument's value and of its ties, with their covariances: of rows, and of labels by kind.

    `rows` (2,), `rows_cov` (2, 2), `share` the mean times one less the mean that it is of, `kinds` (3, 2), `kinds_cov`
    (3, 2, 3, 2), `df` of Student's t, and whether people said "tie" at all, without which there are taken to be none.
    """

    rows: Floats
    rows_cov: Floats
    share: Floats
    kinds: Floats
    kinds_cov: Floats
    df: Floats
    ties: NDArray[np.bool_]


def corrected(
    values: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[Hashable] | None,
    labels: Labels,
    threshold: float,
    alpha: float,
) -> Test:
    """Test the share (a tie is one half) that people would give against a number, from an instrument's values.

    Rogan and Gladen 1978, American Journal of Epidemiology 107:71, as a test: were the share the threshold, the rows'
    mean would be that mix of the labels' means by kind, ties in whatever share fits best; both have errors, by
    clusters. Nothing is divided by, so labels that tell little prove little, as in Fieller's theorem (1954, Journal of
    the Royal Statistical Society B 16:175). An instrument that is not shown to tell people's kinds apart proves
    nothing. Raises ValueError where a kind has no label.
    """
    of = moments(values, weights, clusters, labels)

    def test(place: float) -> tuple[float, float]:
        p_pass, p_fail = share_p(of, place)
        return float(p_pass), float(p_fail)

    p_pass, p_fail = test(threshold)
    lower = _crossing(lambda place: test(place)[0] <= alpha)
    upper = _crossing(lambda place: test(place)[1] > alpha)
    estimate = _estimate(of)
    method = f"corrected by {len(labels.truth)} labels"
    seen = len(set(clusters)) if clusters is not None else None
    return Test(estimate, min(lower, estimate), max(upper, estimate), p_pass, p_fail, method, len(values), seen)


def measured(
    metric: Metric, scores: Sequence[Score], clusters: Sequence[Hashable] | None, labels: Labels | None
) -> float:
    """Return a metric's value: of the rows, or what its labels make of them; NaN where they make nothing."""
    if metric.scale == "agreement":
        return float(agreement(tables_of(labels))[0]) if labels else math.nan
    if labels is None:
        return metric.value(scores)
    values = [s.values.get(metric.name, math.nan) for s in scores]
    weights = [s.weight_of(metric.name) for s in scores]
    if not all(map(math.isfinite, values)) or not sum(weights) > 0:
        return math.nan
    try:
        return _estimate(moments(values, weights, clusters, labels))
    except ValueError:
        return math.nan


def moments(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable] | None, labels: Labels
) -> Moments:
    """Return what `share_p` needs, of one data set. Raises ValueError where there is too little of it."""
    import numpy as np

    w = np.asarray(weights, dtype=np.float64)
    there = np.flatnonzero(w)
    x, w = _pairs(values)[there], w[there] / w[there].mean()
    groups = numbered([clusters[int(i)] for i in there] if clusters is not None else range(len(there)))
    said, truth, prompts = _pairs(labels.said), np.asarray(labels.truth), numbered(labels.clusters)
    kinds = [_mean(said, (truth == kind).astype(np.float64), prompts) for kind in KINDS]
    fewest, count = min(kinds[0].prompts, kinds[2].prompts), len(set(groups.tolist()))
    if fewest < 2 or count < 2:
        raise ValueError(f"labels of {labels.metric} of one kind are of {fewest} prompts, rows of {count}; want 2 each")
    apart = np.zeros((3, 2, 3, 2))
    for h, one in enumerate(kinds):
        for other, two in enumerate(kinds):
            apart[h, :, other] = one.shifts.T @ two.shifts
        apart[h, :, h] += one.pseudo
    rows = _mean(x, w, groups)
    share = rows.mean[0] * (1 - rows.mean[0])
    cov, means = rows.shifts.T @ rows.shifts + rows.pseudo, np.stack([one.mean for one in kinds])
    df, ties = np.asarray(min(fewest, count) - 1.0), np.asarray(kinds[1].prompts > 0)
    return Moments(w @ x / w.sum(), cov, np.asarray(share), means, apart, df, ties)


def _pairs(values: Sequence[float]) -> Floats:
    """Return an instrument's values and whether they are ties, (n, 2)."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    return np.stack([x, (x == 0.5).astype(np.float64)], axis=-1)


def _sums(x: Floats, groups: NDArray[np.intp]) -> Floats:
    """Return sums by group, (groups, 2)."""
    import numpy as np

    return np.stack([np.bincount(groups, column, minlength=int(groups.max()) + 1) for column in x.T], axis=-1)


@dataclass(frozen=True)
class _Mean:
    """A mean of value and ties, PSEUDO ones of each value counted in; how each cluster moves it, and those do."""

    mean: Floats  # (2,)
    shifts: Floats  # (G, 2)
    pseudo: Floats  # (2, 2)
    prompts: int


def _mean(x: Floats, weights: Floats, groups: NDArray[np.intp]) -> _Mean:
    import numpy as np

    places = np.array([[0.0, 0.0], [0.5, 1.0], [1.0, 0.0]])  # value and tie of a label of each value
    prompts = len(set(groups[weights > 0].tolist()))
    total, few = weights.sum() + PSEUDO * len(places), (prompts + 1) / max(prompts, 1)
    mean = (weights @ x + PSEUDO * places.sum(0)) / total
    shifts = _sums(weights[:, None] * (x - mean), groups) / total * math.sqrt(few)
    apart = (places - mean) / total
    return _Mean(mean, shifts, PSEUDO * few * apart.T @ apart, prompts)


def share_p(of: Moments, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of the share against a number."""
    import numpy as np
    from scipy.special import stdtr

    root, blind = signed_root(of, threshold), blind_p(of)
    return np.maximum(stdtr(of.df, -root), blind), np.maximum(stdtr(of.df, root), blind)


def blind_p(of: Moments) -> Floats:
    """Return the p-value of the instrument saying no more of what people prefer than of what they do not."""
    import numpy as np
    from scipy.special import stdtr

    apart, cov = of.kinds[..., 2, 0] - of.kinds[..., 0, 0], of.kinds_cov
    spread = cov[..., 2, 0, 2, 0] + cov[..., 0, 0, 0, 0] - 2 * cov[..., 2, 0, 0, 0]
    return np.asarray(stdtr(of.df, -apart / np.sqrt(spread)))


def signed_root(of: Moments, threshold: float) -> Floats:
    """Return the distance in standard errors of the rows from the nearest mix whose share is the threshold.

    Above zero where the share is above. The least chi-squared over the share of ties, as of value and ties together.
    """
    import numpy as np

    slope = of.kinds[..., 2, :] - of.kinds[..., 0, :]
    least = root = np.zeros(())
    for tie in np.linspace(0, 2 * min(threshold, 1 - threshold), SHARES if np.any(of.ties) else 1):
        mix = np.array([1 - threshold - tie / 2, tie, threshold - tie / 2])
        gap = of.rows - np.einsum("h,...hi->...i", mix, of.kinds)
        mean = (of.kinds[..., 0] * mix).sum(-1)
        grown = np.maximum(mean * (1 - mean) / of.share, 1.0)  # the variance under the hypothesis, where it is larger
        cov = grown[..., None, None] * of.rows_cov + np.einsum("h,...higj,g->...ij", mix, of.kinds_cov, mix)
        a, b, c = cov[..., 0, 0], cov[..., 1, 1], cov[..., 0, 1]
        alone = gap[..., 0] / np.sqrt(a)
        one, two = b * gap[..., 0] - c * gap[..., 1], a * gap[..., 1] - c * gap[..., 0]
        square = np.where(of.ties, (gap[..., 0] * one + gap[..., 1] * two) / (a * b - c * c), alone**2)
        sign = np.sign(np.where(of.ties, slope[..., 0] * one + slope[..., 1] * two, alone))
        nearer = (square < least) & of.ties if tie else np.ones_like(square, dtype=bool)
        least, root = np.where(nearer, square, least), np.where(nearer, sign * np.sqrt(square), root)
    return np.asarray(root)


def _estimate(of: Moments) -> float:
    return _crossing(lambda place: float(signed_root(of, place)) > 0)


def _crossing(below: Callable[[float], bool]) -> float:
    """Return where in [0, 1] a condition ends that holds below and not above, by bisection."""
    low, high = 0.0, 1.0
    if below(high):
        return high
    for _ in range(STEPS if below(low) else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


# -- agreement -------------------------------------------------------------------------------------


def kappa(labels: Labels, threshold: float, alpha: float) -> Test:
    """Test Cohen's kappa of people and instrument against a number; labels of one prompt are one observation.

    Student's t of the clusters' jackknife: on Fisher's scale artanh(kappa), with one half of a cluster's disagreement
    added, and to refute the claim on kappa's own scale, too. Where all labels agree, the chance that no cluster
    disagrees. Raises ValueError without two clusters, and where chance alone would agree.

    Source: Cohen 1960, Educational and Psychological Measurement 20:37.
    """
    tables = tables_of(labels)
    count = len(tables)
    if count < 2:
        raise ValueError(f"labels of {count} prompts; agreement needs those of 2 at least")
    value, chance = (float(x) for x in agreement(tables))
    if chance >= 1:
        raise ValueError("people and judge say one thing only; agreement needs labels of more than one kind")
    p_pass, p_fail = (float(p) for p in kappa_p(tables, threshold))
    method = f"kappa of {len(labels.truth)} labels"
    return Test(value, *_kappa_bounds(tables, alpha), p_pass, p_fail, method, len(labels.truth), count)


def tables_of(labels: Labels) -> Floats:
    """Return how often a cluster's labels are of each pair of kinds, people's and the instrument's: (G, 3, 3)."""
    import numpy as np

    groups = numbered(labels.clusters)
    tables = np.zeros((int(groups.max()) + 1 if len(groups) else 0, 3, 3))
    ours = np.sign(np.asarray(labels.said) - 0.5).astype(int) + 1
    np.add.at(tables, (groups, np.round(2 * np.asarray(labels.truth)).astype(int), ours), 1.0)
    return tables


def agreement(tables: Floats) -> tuple[Floats, Floats]:
    """Return Cohen's kappa of all clusters together, and the agreement that chance gives; tables (G, 3, 3)."""
    return _Jackknife.of(tables).whole


def kappa_p(tables: Floats, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of kappa against a number; 1 where nothing can be said."""
    import numpy as np
    from scipy.special import stdtr

    of = _Jackknife.of(tables)
    value, chance = of.whole
    df, limit = of.count - 1, np.arctanh(max(threshold, NEAR_ONE - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        place, error = of.fisher()
        none = (1 - (1 - threshold) * (1 - chance)) ** of.count
        p_pass = np.where(value == 1, none, stdtr(df, -(place - limit) / error))
        p_fail = np.maximum(stdtr(df, (place - limit) / error), stdtr(df, (value - threshold) / of.error()))
    p_fail = np.where(value >= threshold, 1.0, p_fail)
    return np.nan_to_num(p_pass, nan=1.0), np.nan_to_num(p_fail, nan=1.0)


def _kappa_bounds(tables: Floats, alpha: float) -> tuple[float, float]:
    """Return the one-sided bounds at alpha each that invert `kappa_p`, of one data set."""
    import numpy as np
    from scipy.special import stdtrit

    of = _Jackknife.of(tables)
    value, chance = (float(x) for x in of.whole)
    if value == 1:
        return max(1 - (1 - alpha ** (1 / of.count)) / (1 - chance), -1.0), 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        place, error, plain = (float(x) for x in (*of.fisher(), of.error()))
    if not math.isfinite(error + plain):
        return -1.0, 1.0
    reach = -float(stdtrit(of.count - 1, alpha))
    return math.tanh(place - reach * error), min(max(math.tanh(place + reach * error), value + reach * plain), 1.0)


NEAR_ONE = 1e-9  # by which a kappa stays away from -1, where Fisher's scale ends


@dataclass(frozen=True)
class _Jackknife:
    """Labels that agree, and all labels by kind, people's and the instrument's: of all clusters, and without each."""

    count: int
    alike: Floats  # (), and (G,)
    people: Floats  # (3,), and (G, 3)
    judged: Floats
    fewer: _Jackknife | None = None

    @classmethod
    def of(cls, tables: Floats) -> _Jackknife:
        import numpy as np

        each = np.einsum("...ii->...", tables), tables.sum(-1), tables.sum(-2)
        alike, people, judged = each[0].sum(-1), each[1].sum(-2), each[2].sum(-2)
        rest = alike[..., None] - each[0], people[..., None, :] - each[1], judged[..., None, :] - each[2]
        count = tables.shape[-3]
        return cls(count, alike, people, judged, cls(count - 1, *rest))

    @cached_property
    def chance(self) -> tuple[Floats, Floats]:
        """The share of labels that differ, and the agreement that chance gives."""
        n = self.people.sum(-1)
        return 1 - self.alike / n, (self.people * self.judged).sum(-1) / n**2

    @property
    def whole(self) -> tuple[Floats, Floats]:
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            differ, chance = self.chance
            return 1 - differ / (1 - chance), chance

    def error(self) -> Floats:
        """Return the standard error of kappa."""
        assert self.fewer is not None
        return self._spread(self.fewer.whole[0])

    def fisher(self) -> tuple[Floats, Floats]:
        """Return artanh(kappa) with half a cluster's disagreement added, and its standard error."""
        assert self.fewer is not None
        return self._artanh(), self._spread(self.fewer._artanh())

    def _artanh(self) -> Floats:
        import numpy as np

        differ, chance = self.chance
        added = 0.5 / self.count
        share = np.minimum((differ + added) / (1 + added) / (1 - chance), 2 - NEAR_ONE)  # 1 - kappa
        return np.asarray(np.log((2 - share) / share) / 2)

    def _spread(self, without: Floats) -> Floats:
        import numpy as np

        apart = without - without.mean(-1, keepdims=True)
        return np.asarray(np.sqrt((self.count - 1) / self.count * (apart**2).sum(-1)))
