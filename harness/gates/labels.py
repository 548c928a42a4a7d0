"""Correction of an instrument's share by people's labels.

The correction assumes that the instrument errs alike, given the label that people would give, on the labelled answers
and on the rows that are judged, on either side of the column that the labels name (`Labels.side`: a judge may like the
longer answer); how often people prefer one side may differ. So it is not prediction-powered inference, which takes the
labels for a sample of the rows (docs/decisions/0025-labels-correct-the-judge.md). How often it is wrong:
docs/how-to/use-a-judge.md.

Arrays may have axes before those named, so that a simulation judges many data sets in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

from harness.gates import agreement
from harness.records.metrics import Metric
from harness.records.samples import Labels, Score
from harness.stats.arrays import Bools, Floats, Ints, np, special
from harness.stats.inputs import Clusters, number_clusters
from harness.stats.result import Test
from harness.stats.significance import is_significant

TIE_VALUE = 0.5
KINDS = (0.0, TIE_VALUE, 1.0)  # what people say: the baseline's or not met, a tie, the candidate's or met
PLACES = ((0.0, 0.0), (0.5, 1.0), (1.0, 0.0))  # value of each kind, and whether it is a tie
PSEUDO = 1 / 3  # of a label with each value, added to each kind's error: few that agree are no proof that all do
MIN_PROMPTS = 2  # prompts of a kind on each side, the fewest that an error can be estimated from
MAX_ROUNDS = 3  # in which the labels' covariance follows the mix that fits best
TOLERANCE = 1e-9
SEARCH_PARTS = 16  # of the interval in which a bound is searched
BOUND_WIDTH = 1e-12  # to which it is found


@dataclass(frozen=True)
class Moments:
    """Moments of an instrument's values, over rows and labels.

    They are means of values and ties, with covariances; those of labels are by kind. Rows are on one side, or on Z = 2.
    `rows` (L = 3Z - 1,): value and tie of each side, 0 for rows of the other, then the share of rows on the first;
    `rows_cov` (L, L), `share` (Z,) the values' means with PSEUDO rows; of labels `kinds` (Z, 3, 2), `kinds_cov` (Z, 3,
    2, Z, 3, 2), `near` (Z, 3) the values' means with PSEUDO labels, and `prompts` (Z, 3). `blind` is the p-value of the
    instrument rating answers that people prefer no higher than the others, `count` the number of independent rows, and
    `ties` whether people gave any "tie" at all; without one there are taken to be none.
    """

    rows: Floats
    rows_cov: Floats
    share: Floats
    kinds: Floats
    kinds_cov: Floats
    near: Floats
    prompts: Floats
    blind: Floats
    count: int
    ties: bool


def label_corrected_test(
    values: Sequence[float],
    weights: Sequence[float],
    clusters: Clusters | None,
    labels: Labels,
    threshold: float,
    alpha: float,
    sides: Sequence[int] | None = None,
) -> Test:
    """Test the label-corrected share against a threshold.

    It is the share that people would give, inferred from an instrument's values. A tie counts one half. The test is
    that of Rogan and Gladen 1978, American Journal of Epidemiology 107:71: if the share were the threshold, the rows'
    means would be that mix of the labels' means by kind, with sides and ties in the shares that fit best; all have
    errors, by clusters. Nothing is divided by, so labels that tell little prove little, as in Fieller's theorem (1954,
    Journal of the Royal Statistical Society B 16:175). An instrument that is not shown to tell people's kinds apart
    proves nothing. `sides` are those of the rows, if the labels have sides. Raises ValueError if a kind has too few
    labels.
    """
    of = label_moments(values, weights, clusters, labels, sides)
    p_pass, p_fail = map(float, share_p_values(of, threshold))
    lower = _search_share_crossing(of, lambda each, places: is_significant(share_p_values(each, places)[0], alpha))
    upper = _search_share_crossing(of, lambda each, places: ~is_significant(share_p_values(each, places)[1], alpha))
    estimate = _estimate_share(of)
    method = f"corrected by {len(labels.truth)} labels" + (f" within {labels.side}" if labels.side else "")
    seen = len(set(clusters)) if clusters is not None else None
    return Test(estimate, min(lower, estimate), max(upper, estimate), p_pass, p_fail, method, len(values), seen)


def value_with_labels(
    metric: Metric, scores: Sequence[Score], clusters: Clusters | None, labels: Labels | None
) -> float:
    """Return a metric's value: of the rows, or what its labels make of them; NaN where they make nothing."""
    if metric.is_agreement:
        return float(agreement.kappa_and_chance(agreement.confusion_tables(labels))[0]) if labels else math.nan
    if labels is None:
        return metric.value(scores)
    values = [s.values.get(metric.name, math.nan) for s in scores]
    weights = [s.weight_of(metric.name) for s in scores]
    if not all(map(math.isfinite, values)) or not sum(weights) > 0:
        return math.nan
    try:
        return _estimate_share(label_moments(values, weights, clusters, labels, label_sides(labels, scores)))
    except ValueError:
        return math.nan


def label_sides(labels: Labels, scores: Sequence[Score]) -> list[int] | None:
    """Return which side each row is on, where labels have sides."""
    return [int(s.values.get(labels.side, 0.0) > 0) for s in scores] if labels.side else None


def label_moments(
    values: Sequence[float],
    weights: Sequence[float],
    clusters: Clusters | None,
    labels: Labels,
    sides: Sequence[int] | None = None,
) -> Moments:
    """Compute the moments that `share_p_values` needs, of one data set.

    Labels on a side without rows tell nothing of the rows. Raises ValueError if a kind has labels for fewer than
    MIN_PROMPTS prompts on a side.
    """
    w = np.asarray(weights, dtype=np.float64)
    there = np.flatnonzero(w)
    x, w = np.asarray(values, dtype=np.float64)[there], w[there] / w[there].mean()
    groups = number_clusters([clusters[int(i)] for i in there] if clusters is not None else range(len(there)))
    where = np.asarray(sides)[there] if labels.side and sides is not None else np.zeros(len(x))
    theirs = np.asarray(labels.sides) if labels.side and sides is not None else np.zeros(len(labels.truth))
    met = np.unique(where)
    said, truth, prompts = (
        _stack_values_and_ties(np.asarray(labels.said)),
        np.asarray(labels.truth),
        number_clusters(labels.clusters),
    )
    chosen = [[(truth == kind) & (theirs == side) for kind in KINDS] for side in met]
    kinds = [
        [_estimate_smoothed_mean(said, some.astype(np.float64), prompts, np.array(PLACES)) for some in each]
        for each in chosen
    ]
    count = len(set(groups.tolist()))
    for side, each in zip(met, kinds, strict=True):
        if (fewest := min(each[0].prompts, each[2].prompts, count)) < MIN_PROMPTS:
            where_ = f" where {labels.side} is {'' if side else 'not '}above 0" if labels.side else ""
            raise ValueError(
                f"labels of {labels.metric} of one kind cover only {fewest} prompts{where_}; "
                f"label {MIN_PROMPTS} or more"
            )
    return Moments(
        *_estimate_row_moments(x, w, groups, where, met),
        np.array([[lost.plain, tie.mean, won.plain] for lost, tie, won in kinds]),
        _estimate_label_covariances(kinds),
        np.array([[one.mean[0] for one in each] for each in kinds]),
        np.array([[one.prompts for one in each] for each in kinds]),
        _compute_label_only_p(
            *(
                _estimate_smoothed_mean(said, (truth == kind).astype(np.float64), prompts, np.array(PLACES))
                for kind in (0.0, 1.0)
            )
        ),
        count,
        bool((truth == TIE_VALUE).any()),
    )


def _stack_values_and_ties(x: Floats) -> Floats:
    """Return an instrument's values and whether they are ties, (n, 2)."""
    return np.stack([x, (x == TIE_VALUE).astype(np.float64)], axis=-1)


@dataclass(frozen=True)
class _Mean:
    """A mean with and without pseudo-observations, and its errors.

    `mean` counts in PSEUDO observations at each place, `plain` does not; `shifts` are the effect of each cluster on the
    mean, `pseudo` is the covariance from the pseudo-observations.
    """

    mean: Floats  # (L,)
    plain: Floats
    shifts: Floats  # (G, L)
    pseudo: Floats  # (L, L)
    prompts: int


def _estimate_smoothed_mean(x: Floats, weights: Floats, groups: Ints, places: Floats) -> _Mean:
    prompts = len(set(groups[weights > 0].tolist()))
    total, few = weights.sum() + PSEUDO * len(places), (prompts + 1) / max(prompts, 1)
    mean = (weights @ x + PSEUDO * places.sum(0)) / total
    moved = weights[:, None] * (x - mean)
    sums = [np.bincount(groups, column, minlength=int(groups.max()) + 1) for column in moved.T]
    apart = (places - mean) / total
    plain = weights @ x / max(weights.sum(), TOLERANCE)
    return _Mean(mean, plain, np.stack(sums, -1) / total * math.sqrt(few), PSEUDO * few * apart.T @ apart, prompts)


def _estimate_row_moments(x: Floats, w: Floats, groups: Ints, where: Any, met: Any) -> tuple[Floats, Floats, Floats]:
    """Return the rows' means, covariance and share, see `Moments`."""
    places = [pairs_by_side(np.array(PLACES), np.full(3, side), met) for side in met]
    found = _estimate_smoothed_mean(
        pairs_by_side(_stack_values_and_ties(x), where, met), w, groups, np.concatenate(places)
    )
    return found.plain, found.shifts.T @ found.shifts + found.pseudo, found.mean[: 2 * len(met) : 2]


def pairs_by_side(pairs: Floats, where: Any, met: Any) -> Floats:
    """Arrange values and ties by side, as in `Moments.rows`.

    `pairs` is (n, 2), `where` (n,) is the side of each row; the result is (n, L).
    """
    on = (where[..., None] == met).astype(np.float64)  # (n, Z)
    each = (on[..., None] * pairs[..., None, :]).reshape(*where.shape, -1)
    return np.concatenate([each, on[..., :-1]], -1)


def _estimate_label_covariances(kinds: Sequence[Sequence[_Mean]]) -> Floats:
    """Return the covariances of the labels' means: those of one prompt are not independent."""
    flat = [one for each in kinds for one in each]
    found = np.zeros((len(flat), 2, len(flat), 2))
    for i, one in enumerate(flat):
        for j, other in enumerate(flat):
            found[i, :, j] = one.shifts.T @ other.shifts
        found[i, :, i] += one.pseudo
    return found.reshape(len(kinds), 3, 2, len(kinds), 3, 2)


def _compute_label_only_p(lost: _Mean, won: _Mean) -> Floats:
    moved = won.shifts[:, 0] - lost.shifts[:, 0]
    spread = moved @ moved + won.pseudo[0, 0] + lost.pseudo[0, 0]
    t = (won.mean[0] - lost.mean[0]) / math.sqrt(spread)
    return np.asarray(special.stdtr(min(lost.prompts, won.prompts) - 1, -t))


def share_p_values(of: Moments, threshold: float | Floats) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail of the share. `threshold` may be an array, one for each data set."""
    root, df = signed_root(of, threshold)
    return np.maximum(special.stdtr(df, -root), of.blind), np.maximum(special.stdtr(df, root), of.blind)


def signed_root(of: Moments, threshold: float | Floats) -> tuple[Floats, Floats]:
    """Return a threshold's signed root chi-squared and its df.

    It is the distance of the rows, in standard errors, from the nearest mix with that share, and is positive if the
    share is above. The mix gives the rows on each side and of each kind; it has the least chi-squared, with the
    covariance of rows and labels under it. The chi-squared of the best mix of any share is subtracted, since it is
    large if none fits. The degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2:110) of its parts: the
    rows, and the labels of each kind.
    """
    mix = _Mix(of)
    weights = mix.start(threshold)
    rows = mix.of_rows(weights)
    scale = np.ones(())
    for _ in range(MAX_ROUNDS):
        inverse = np.asarray(np.linalg.inv(rows + mix.of_labels(weights, scale)))
        square, weights, above = mix.nearest(inverse, threshold)
        scale = mix.grown(weights, inverse, scale)
    away = np.maximum(square - mix.nearest(inverse, None)[0], 0.0)
    return np.where(above, 1.0, -1.0) * np.sqrt(away), mix.df(weights, inverse, rows, scale)


class _Mix:
    """Rows as a mix of the labels' kinds: `design` (L, D) times weights (D,), which give the share and sum to 1."""

    def __init__(self, of: Moments) -> None:
        sides, self.width = of.kinds.shape[-3], 2 if of.ties else 1
        self.of, self.kinds = of, [0, 1, 2] if of.ties else [0, 2]
        at = [2 * z + i for z in range(sides) for i in range(self.width)] + list(range(2 * sides, 3 * sides - 1))
        self.y, self.rows_cov = of.rows[..., at], of.rows_cov[..., at, :][..., at]
        self.blocks = [slice(z * self.width, (z + 1) * self.width) for z in range(sides)]
        columns = [slice(z * len(self.kinds), (z + 1) * len(self.kinds)) for z in range(sides)]
        self.design = np.zeros((*self.y.shape, sides * len(self.kinds)))
        for z in range(sides):
            self.design[..., self.blocks[z], columns[z]] = of.kinds[..., z, self.kinds, : self.width].swapaxes(-1, -2)
        self.design[..., sides * self.width :, columns[0]] = 1.0
        self.means, self.near = of.kinds[..., self.kinds, 0], of.near[..., self.kinds]
        self.values = np.tile(np.array(KINDS)[self.kinds], sides)
        cov = np.take(np.take(of.kinds_cov, self.kinds, -5), self.kinds, -2)
        self.kinds_cov = cov[..., : self.width, :, :, : self.width]  # (Z, K, width, Z, K, width)

    def start(self, threshold: float | Floats) -> Floats:
        """Return initial weights, with equal shares and no ties."""
        sides, share = len(self.blocks), np.asarray(threshold)
        mix = np.stack([1 - share, share], -1)
        first = self.y[..., -1:] if sides > 1 else np.ones((*self.y.shape[:-1], 1))
        found = np.zeros((*self.y.shape[:-1], sides, len(self.kinds)))
        found[..., [0, -1]] = np.stack([first, 1 - first][:sides], -2) * mix[..., None, :]
        return found.reshape(*found.shape[:-2], -1)

    def of_rows(self, weights: Floats) -> Floats:
        """Return the covariance (L, L) of rows under a mix. It is never below the observed one."""
        scale = np.ones_like(self.y)
        for z, block in enumerate(self.blocks):
            mean, seen = (self.design[..., block.start, :] * weights).sum(-1), self.of.share[..., z]
            scale[..., block] = np.sqrt(np.maximum(mean * (1 - mean) / (seen * (1 - seen)), 1.0))[..., None]
        return np.asarray(self.rows_cov * scale[..., :, None] * scale[..., None, :])

    def of_labels(self, weights: Floats, scale: Floats) -> Floats:
        """Return the covariance (L, L) of a mix's labels.

        The error of each kind (Z, K) is `scale` times the observed one.
        """
        by, full = self._reshape_weights_by_kind(weights) * scale, np.zeros_like(self.rows_cov)
        labels = np.einsum("...zh,...zhiygj,...yg->...ziyj", by, self.kinds_cov, by)
        size = self.blocks[-1].stop
        full[..., :size, :size] = labels.reshape(*labels.shape[:-4], size, size)
        return full

    def nearest(self, inverse: Floats, threshold: float | Floats | None) -> tuple[Floats, Floats, Bools]:
        """Find the mix of least chi-squared among nonnegative weights.

        Returns that chi-squared, its weights (D,), and whether the share is above the threshold. The share of the mix
        is fixed to the threshold, if one is given. All sets of nonzero weights are tried, each by Lagrange's
        multipliers; that of the share tells on which side better mixes lie.
        """
        gram = np.einsum("...ld,...lm,...me->...de", self.design, inverse, self.design)
        to = np.einsum("...ld,...lm,...m->...d", self.design, inverse, self.y)
        squares, mixes, slopes = [], [], []
        limits = [np.ones_like(self.values), self.values][: 1 if threshold is None else 2]
        kinds = range(len(self.values))
        for size in range(len(limits), len(kinds) + 1):  # of sets (S, size), which have as many values as limits
            chosen = np.array([c for c in combinations(kinds, size) if len(set(self.values[list(c)])) >= len(limits)])
            system = np.zeros((*to.shape[:-1], len(chosen), size + len(limits), size + len(limits)))
            system[..., :size, :size] = gram[..., chosen[:, :, None], chosen[:, None, :]] + TOLERANCE * np.eye(size)
            for i, limit in enumerate(limits, size):
                system[..., i, :size] = system[..., :size, i] = limit[chosen]
            right = np.zeros(system.shape[:-1])
            right[..., :size], right[..., size] = to[..., chosen], 1.0
            if threshold is not None:
                right[..., size + 1] = np.asarray(threshold)[..., None]
            solved = np.linalg.solve(system, right[..., None])[..., 0]
            mix = np.zeros((*solved.shape[:-1], len(self.values)))
            np.put_along_axis(mix, np.broadcast_to(chosen, solved[..., :size].shape), solved[..., :size], -1)
            off = self.y[..., None, :] - np.einsum("...ld,...sd->...sl", self.design, mix)
            square = np.einsum("...sl,...lm,...sm->...s", off, inverse, off)
            squares.append(np.where((mix >= -TOLERANCE).all(-1), square, np.inf))
            mixes.append(np.maximum(mix, 0.0))
            slopes.append(solved[..., -1])
        every, mixed, slope = np.concatenate(squares, -1), np.concatenate(mixes, -2), np.concatenate(slopes, -1)
        best = every.argmin(-1)[..., None]
        found = np.take_along_axis(mixed, best[..., None], -2)[..., 0, :]
        return np.take_along_axis(every, best, -1)[..., 0], found, np.take_along_axis(slope, best, -1)[..., 0] > 0

    def grown(self, weights: Floats, inverse: Floats, scale: Floats) -> Floats:
        """Return the growth (Z, K) of each kind's error.

        It belongs to the label means that fit a mix best.
        """
        by, inner, own = self._compute_scaled_residuals(weights, inverse)[1:]
        at = self.means + by * scale**2 * np.einsum("...zhj,...zj->...zh", own[..., 0, :], inner)
        at, near = np.clip(at, 0.0, 1.0), self.near
        return np.asarray(np.sqrt(np.maximum(at * (1 - at) / (near * (1 - near)), 1.0)))

    def _compute_scaled_residuals(self, weights: Floats, inverse: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return a mix's residuals over their covariance.

        For all rows (L,) and by side, together with the weights by kind and each kind's covariance.
        """
        off = self.y - (self.design * weights[..., None, :]).sum(-1)
        towards = np.einsum("...lm,...m->...l", inverse, off)
        by, size = self._reshape_weights_by_kind(weights), self.blocks[-1].stop
        inner = towards[..., :size].reshape(*by.shape[:-1], self.width)
        return towards, by, inner, np.einsum("...zhizhj->...zhij", self.kinds_cov)

    def df(self, weights: Floats, inverse: Floats, rows: Floats, scale: Floats) -> Floats:
        """Return the degrees of freedom of a mix's distance."""
        towards, by, inner, own = self._compute_scaled_residuals(weights, inverse)
        by = by * scale
        parts = by**2 * np.einsum("...zi,...zhij,...zj->...zh", inner, own, inner)
        of_rows = np.einsum("...l,...lm,...m->...", towards, rows, towards)
        freedom = np.maximum(self.of.prompts[..., self.kinds] / 2, 1)  # half: shares near 0 or 1 tell less of a spread
        total = np.maximum(of_rows + parts.sum((-1, -2)), 1e-300)
        of_labels = ((parts / total[..., None, None]) ** 2 / freedom).sum((-1, -2))
        return np.asarray(1 / np.maximum((of_rows / total) ** 2 / (self.of.count - 1) + of_labels, 1e-12))

    def _reshape_weights_by_kind(self, weights: Floats) -> Floats:
        return weights.reshape(*weights.shape[:-1], len(self.blocks), len(self.kinds))


def _estimate_share(of: Moments) -> float:
    return _search_share_crossing(of, lambda each, places: signed_root(each, places)[0] > 0)


def _search_share_crossing(of: Moments, below: Callable[[Moments, Floats], Bools]) -> float:
    """Find the share in [0, 1] above which a condition ends.

    It is 1 if the condition never ends. For one data set only: `below` gets many shares in one call, as of so many data
    sets, which takes ten calls instead of the forty of a bisection.
    """
    arrays = {f.name: getattr(of, f.name) for f in fields(of) if f.name not in ("count", "ties")}
    alike: dict[str, Any] = {name: np.broadcast_to(x, (SEARCH_PARTS + 1, *np.shape(x))) for name, x in arrays.items()}
    each = replace(of, **alike)
    low, high = 0.0, 1.0
    while high - low > BOUND_WIDTH:
        places = np.linspace(low, high, SEARCH_PARTS + 1)
        holds = below(each, places)
        if holds[-1] or not holds[0]:
            return high if holds[-1] else low
        last = int(holds.argmin()) - 1
        low, high = float(places[last]), float(places[last + 1])
    return low
