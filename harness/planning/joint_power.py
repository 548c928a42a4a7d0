"""How often a model ships: all gates on a candidate that decide, judged together on the same draws of their rows."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from harness.planning.gate_power import GateOdds
from harness.planning.power import ASSUMED_GAIN, GatePower
from harness.planning.resampling import BinomialRows, PowerClaim
from harness.stats import power
from harness.stats.arrays import Bools, np

DRAWN_RUNS = 2000
SEARCH_DRAWS = 1000  # draws of every size at which rows are searched for
MAX_ROWS_FACTOR = 1000.0  # times the rows; what would need more is not a matter of rows


@dataclass(frozen=True)
class JointPower:
    """How often a candidate passes all of its blocking gates.

    `better` is that of a model which is `points` points better than gates on 0/1 rows ask (0 where there are none),
    equals its baseline where it may be worse, and else is as in the last run; `again` that of one which is as in the
    last run altogether, None where there was none. Dropping the gate `costliest` would raise `better` most, to
    `without`. `factor` times the rows, which `rows` has by eval, would raise it to 80 %; None where none would.
    `assumed` is what else is taken to hold, `unknown` the gates that are left out: their power is not known, or they
    have none.
    """

    candidate: str
    gates: int
    better: float
    again: float | None
    points: float
    costliest: str = ""
    without: float = 0.0
    factor: float | None = None
    rows: Mapping[str, int] | None = None
    assumed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def forecast_joint_power(asked: Sequence[GateOdds]) -> list[JointPower]:
    """Forecast how often each candidate passes its blocking gates together.

    Only gates with a known power count; candidates without any are left out.
    """
    names = dict.fromkeys(a.odds.candidate for a in asked)
    suites = {name: _GatesTogether([a for a in asked if a.odds.candidate == name]) for name in names}
    return [suite.joint(name) for name, suite in suites.items() if suite.blocking]


class _GatesTogether:
    """The gates on one candidate."""

    def __init__(self, asked: Sequence[GateOdds]) -> None:
        self.asked = {a.gate.id: a for a in asked}
        holding = [a for a in asked if a.odds.blocking and a.decides]
        self.blocking = [a.gate.id for a in holding if a.odds.power is not None]
        self.unknown = tuple(a.gate.id for a in holding if a.odds.power is None)

    def joint(self, candidate: str) -> JointPower:
        chance = _compute_share_passing_all(passed := self.passed(better=True))
        cases = [case for name in self.blocking for case in self.cases(name)]
        again = (
            _compute_share_passing_all(self.passed(better=False))
            if any(c.estimate is not None for c in cases)
            else None
        )
        points = 100 * ASSUMED_GAIN if any(c.is_binary and c.gate.worse_by_at_most is None for c in cases) else 0.0
        found = JointPower(candidate, len(self.blocking), chance, again, points, unknown=self.unknown)
        if any(c.gate.worse_by_at_most is not None for c in cases):
            found = replace(found, assumed=("gates that allow a loss assume a model equal to its baseline",))
        if any(not c.is_binary and c.gate.worse_by_at_most is None for c in cases):
            found = replace(found, assumed=(*found.assumed, "it is as in the last run where rows have no such scale"))
        if len(self.blocking) > 1:
            left = [_compute_share_passing_all(np.delete(passed, i, axis=1)) for i in range(passed.shape[1])]
            worst = max(range(len(left)), key=left.__getitem__)
            found = replace(found, costliest=self.blocking[worst], without=left[worst])
        if chance < power.DEFAULT_POWER and (factor := self.factor()):
            evals = {c.gate.eval: len(c.clusters) for c in cases}
            found = replace(found, factor=factor, rows={name: math.ceil(n * factor) for name, n in evals.items()})
        return found

    def passed(self, *, better: bool, factor: float = 1.0, runs: int = DRAWN_RUNS) -> Bools:
        """Return (runs, blocking gates): which of them passes on which draw of the rows.

        Evals are independent; so are the metrics of one, unless they are drawn from the rows of an earlier run.
        """
        columns: dict[str, list[Bools]] = {name: [] for name, a in self.asked.items() if a.odds.power is not None}
        shared: dict[str, list[GatePower]] = {}
        for name in columns:
            for case in self.asked[name].cases:
                if case.cannot_pass:
                    columns[name].append(np.zeros(runs, dtype=bool))
                elif case.is_binary and not case.seeds:
                    shared.setdefault(case.gate.metric, []).append(case)
                elif case.drawn:
                    columns[name].append(
                        case.simulate_passes(
                            case.better if better else case.previous_estimate, case.bound, factor, runs
                        )
                    )
                else:  # it passes as often as its power says
                    chance = case.power(case.better if better else case.previous_estimate, case.bound, factor)
                    rng = np.random.default_rng(zlib.crc32(case.gate.id.encode()))
                    columns[name].append(np.asarray(rng.random(runs) < chance))
        for cases in shared.values():
            for case, column in zip(cases, _simulate_joint_passes(cases, better, factor, runs).T, strict=True):
                columns[case.gate.id].append(column)
        passed = {name: np.all(some, axis=0) if some else np.zeros(runs, dtype=bool) for name, some in columns.items()}
        for _ in passed:  # so often that a chain of them is followed to its end
            for name in passed:
                for needed in self.asked[name].gate.requires:
                    passed[name] = passed[name] & passed.get(needed, True)
        return np.stack([passed[name] for name in self.blocking], axis=1)

    def factor(self) -> float | None:
        """Return the growth in rows that gives power 0.8. None if no growth does."""
        if any(not self.cases(name) for name in self.blocking):
            return None
        return power.search_with_correction(
            lambda at: power.search_power(at, 1.0, MAX_ROWS_FACTOR),
            lambda x: power.power_to_deviate(math.prod(self.about(name, x) for name in self.blocking)),
            lambda x: _compute_share_passing_all(self.passed(better=True, factor=x, runs=SEARCH_DRAWS)),
            steps=3,
        )

    def about(self, name: str, factor: float) -> float:
        """Return about how often a gate passes, from normal errors."""
        cases = self.asked[name].cases
        if any(case.cannot_pass for case in cases):
            return 0.0
        each = (case.approximate_deviate(case.better, case.bound, factor) for case in cases)
        return math.prod(map(NormalDist().cdf, each))

    def cases(self, name: str) -> list[GatePower]:
        """Return the cases of a gate."""
        return list(self.asked[name].cases)


def _compute_share_passing_all(passed: Bools) -> float:
    return float(passed.all(axis=1).mean())


def _simulate_joint_passes(cases: Sequence[GatePower], better: bool, factor: float, runs: int) -> Bools:
    """Return (runs, cases): gates on one metric of 0/1 rows, judged on the same rows of the candidate."""
    truths = [(case, case.better if better else case.previous_estimate) for case in cases]
    alone = [t for case, t in truths if not case.gate.versus]
    baselines = dict.fromkeys(case.gate.versus for case in cases if case.gate.versus)
    pairs = []
    for name in baselines:
        own = [(case, t) for case, t in truths if case.gate.versus == name]
        difference = max(t for _, t in own)
        pairs.append((difference, max(abs(difference), sum(case.discordance for case, _ in own) / len(own))))
    known = next((case.share for case in cases if case.share is not None), None)
    # a share that nothing tells of lets the baselines be as far from the candidate as they are said to be
    right = max(alone) if alone else known if known is not None else 0.5 + max(abs(d) for d, _ in pairs) / 2
    most = [min(2 * right - d, 2 * (1 - right) + d) for d, _ in pairs]
    pairs = [(d, max(min(differ, limit), abs(d))) for (d, differ), limit in zip(pairs, most, strict=True)]
    rows = BinomialRows(right, tuple(pairs), cases[0].clusters, sum(case.icc for case in cases) / len(cases))
    at = {name: i for i, name in enumerate(baselines)}
    claims = tuple(
        PowerClaim(c.bound, c.alpha, at[c.gate.versus] if c.gate.versus else None, c.chosen, c.crossing) for c in cases
    )
    return rows.simulate_passes(claims, cases[0].seed, runs, factor)
