"""Before any row is scored: how likely a gate is to be proven, the smallest claim its rows can prove, rows needed.

What is not known yet is assumed, and said: the last run of the suite where there is one, else DISCORDANCE and ICC.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness import power
from harness.collect import Plan, Task
from harness.errors import UsageError
from harness.gate import Gate, Verdict
from harness.proof import alpha_of, unprovable
from harness.question import Question
from harness.report import Run, read_run
from harness.result import Metric, Sample
from harness.stats import spent

ICC = 0.2  # correlation of rows in one cluster, where no run has shown it
FEWEST = 30  # rows of an earlier run from which on it says more than the defaults
MOST = 100_000  # rows; what would need more is not a matter of rows
EXACT = {"exact binomial", "Tango score", "McNemar exact"}  # methods whose bounds are no multiple of an error

Power = Callable[[float, float, float], float]  # (truth, bound, rows), turned so that larger is better


@dataclass(frozen=True)
class Odds:
    """What a gate can prove on a candidate.

    `power` is how often a model passes that is as `truth` says; without one, `missing` says what is not known.
    `proves` is the smallest claim that is proven with power 0.8, in the metric's units, and `needed` how many rows
    the claim itself would take for that; None where no number of rows would. A gate that is not a matter of power
    (`kind` "counted", "point", "alarm") has none.
    """

    gate: str
    claim: str
    candidate: str
    blocking: bool
    kind: str = "inferred"
    rows: int = 0
    clusters: int | None = None
    effective: float = 0.0  # independent rows that say as much as rows in clusters
    alpha: float = 0.05
    power: float | None = None
    truth: str = ""
    assumed: tuple[str, ...] = ()
    proves: str = ""
    needed: int | None = None
    missing: str = ""
    warning: str = ""
    group: str = ""


@dataclass(frozen=True)
class Joint:
    """How likely all blocking gates of a candidate are to pass: independent, at least, at most; and those left out."""

    candidate: str
    independent: float
    least: float
    most: float
    gates: int
    unknown: tuple[str, ...] = ()


class History:
    """What earlier runs of a suite found, the newest first."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.plan = plan
        self.runs = [run for path in _reports(out, plan.suite.name) if (run := _read(path, plan.suite.model.path))]

    def verdict(self, gate: Gate, candidate: str, fewest: int = FEWEST) -> tuple[Verdict, Run] | None:
        """Return the last verdict on the same question with rows enough to learn from, and its run."""
        asked = (gate.id, candidate, gate.metric, gate.versus, gate.relative)
        for run in self.runs:
            for v in run.verdicts:
                relative = "%" in v.claim
                if (v.gate, v.candidate, v.metric, v.versus, relative) == asked and v.n >= fewest and v.method:
                    return v, run
        return None

    def seconds(self, subject: str, evaluation: str) -> float | None:
        """Return the seconds a row took when it was last evaluated with nothing remembered."""
        for run in self.runs:
            for r in run.reports:
                if (r.subject, r.eval) == (subject, evaluation) and r.outcome == "done" and r.n and not r.remembered:
                    return r.seconds / r.n
        return None


def odds_of(plan: Plan, history: History, attempts: Mapping[tuple[str, str], int]) -> list[Odds]:
    """Return the odds of every gate on every candidate; `attempts` are those made so far by (gate, candidate)."""
    found = []
    for candidate in plan.candidates:
        each = {g.id: _odds(plan, g, candidate, history, attempts) for g in plan.gates(candidate) if not g.any_of}
        groups = {g.id: _group(g, candidate, each) for g in plan.gates(candidate) if g.any_of}
        found += [(groups | each)[g.id] for g in plan.gates(candidate)]
    return found


def joint_of(odds: Sequence[Odds]) -> list[Joint]:
    """Return the joint power of the blocking gates, candidate by candidate."""
    found = []
    for candidate in dict.fromkeys(o.candidate for o in odds):
        blocking = [o for o in odds if o.candidate == candidate and o.blocking]
        known = [o.power for o in blocking if o.power is not None]
        if known:
            unknown = tuple(o.gate for o in blocking if o.power is None)
            found.append(Joint(candidate, *power.joint_power(known), len(known), unknown))
    return found


def _odds(plan: Plan, gate: Gate, candidate: str, history: History, attempts: Mapping[tuple[str, str], int]) -> Odds:
    task = plan.tasks[gate.eval]
    metric = task.metrics[gate.metric_name]
    alpha = alpha_of(gate, plan.suite)
    assumed = []
    tried = attempts.get((gate.id, candidate), 0)
    if plan.suite.about.attempts == "spend":
        alpha = spent(alpha, tried + 1)
        assumed += [f"attempt {tried + 1}, tested at alpha {alpha:.2g}"] if tried else []
    if task.spec.stop == "early":
        assumed.append("power as without stopping early, which costs some")
    blank = Odds(gate.id, f"{gate.metric} {gate.claim()}", candidate, gate.blocking, alpha=alpha, group=gate.group)
    blank = replace(blank, assumed=tuple(assumed))
    if gate.max_failures is not None or metric.scale == "count":
        return _decided(blank, gate, task, history.verdict(gate, candidate, fewest=1))
    if metric.scale == "agreement":
        return replace(blank, kind="labels", rows=len(task.samples or ()), missing="labels decide it, and rows do not")
    parts = gate.parts(task.samples or ())
    large = {name: rows for name, rows in parts.items() if gate.slice is None or len(rows) >= gate.min_n}
    past = history.verdict(gate, candidate) if len(parts) == 1 else None
    if not large:
        what = f"no slice has {gate.min_n} rows (min_n), so it cannot pass"
        return replace(blank, kind="alarm", rows=sum(map(len, parts.values())), missing=what)
    each = [_Case(gate, metric, rows, alpha, past).odds(blank) for rows in large.values()]
    worst = min(each, key=lambda o: o.power if o.power is not None else -1.0)
    if len(each) > 1:
        known = [o.power for o in each if o.power is not None]
        note = f"{len(each)} slices must all pass; the smallest is {list(large)[each.index(worst)]}"
        whole = math.prod(known) if len(known) == len(each) else None
        worst = replace(worst, power=whole, assumed=(note, *worst.assumed))
    if unprovable(gate, metric, task.samples or (), alpha_of(gate, plan.suite)):
        return worst  # told at collection
    return replace(worst, warning=unprovable(gate, metric, task.samples or (), alpha) or _doubt(worst))


def _doubt(odds: Odds) -> str:
    """Warn of a gate that more often than not would not say PASS of the model it is meant to pass."""
    if odds.power is None or odds.power >= 0.5:
        return ""
    cure = f"{odds.needed:,} rows would make it {power.POWER:.0%}" if odds.needed else "no number of rows would help"
    return f"{odds.candidate} passes {odds.power:.0%} of the time {odds.truth}; {cure}"


def _decided(blank: Odds, gate: Gate, task: Task, past: tuple[Verdict, Run] | None) -> Odds:
    """Return the odds of what is counted or compared as it is: there is no power, only what was seen before."""
    rows = len(task.samples or ())
    kind = "point" if gate.max_failures is None else "counted"
    what = "decided by its value" if kind == "point" else "failures are counted, nothing is inferred"
    if kind == "counted" and rows > 1:
        # Clopper and Pearson's upper bound of no failures in n rows
        share = 1 - blank.alpha ** (1 / rows)
        what += f"; no failure in {rows} rows shows that at most {share:.2%} of such rows fail"
    return replace(blank, kind=kind, rows=rows, missing=what, assumed=(*blank.assumed, *_seen(past)))


def _seen(past: tuple[Verdict, Run] | None) -> list[str]:
    return [f"{past[0].outcome} in {name_of(past[1])}: {past[0].why.partition('; ')[0]}"] if past else []


def _group(gate: Gate, candidate: str, each: Mapping[str, Odds]) -> Odds:
    """Return the odds that one of several gates is proven, each at its share of the risk."""
    members = [each[name] for name in gate.any_of if name in each]
    blank = Odds(gate.id, gate.claim(), candidate, gate.blocking, kind="group", rows=max(m.rows for m in members))
    known = [m.power for m in members if m.power is not None]
    if len(known) < len(members):
        return replace(blank, missing="the odds of a member are not known")
    return replace(blank, power=1 - math.prod(1 - p for p in known), truth="if its members are independent")


# -- one question ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Assumed:
    """What is taken to hold of rows: how they vary, by how much clusters multiply those needed, and where from.

    `spread` is the standard deviation of a row's value, or of its difference, clusters counted in; None of 0/1 rows.
    `discordance` is the share of 0/1 rows on which candidate and baseline differ.
    """

    spread: float | None = None
    discordance: float = power.DISCORDANCE
    effect: float = 1.0
    notes: tuple[str, ...] = ()


class _Case:
    """A gate on some rows, turned so that larger is better: the truth must be shown to be above `bound`."""

    def __init__(
        self, gate: Gate, metric: Metric, rows: Sequence[Sample], alpha: float, past: tuple[Verdict, Run] | None
    ) -> None:
        self.gate, self.metric, self.alpha = gate, metric, alpha
        self.past = past[0] if past else None
        self.where = f"as in {name_of(past[1])}" if past else "assumed"
        self.n, self.sizes = len(rows), list(Counter(s.cluster or s.id for s in rows).values())
        self.clusters = len(self.sizes) if len(self.sizes) < self.n else None
        # 0/1 rows, or taken to be: nothing between 0 and 1 varies more
        self.shares = metric.scale == "proportion" and not (metric.combine or metric.labelled or gate.relative)
        question = Question(gate, metric, (), () if gate.versus else None, (), alpha, 0)
        self.sign = question.sign
        self.shift = 1.0 if self.shares and not gate.versus and self.sign < 0 else 0.0  # the share of rows that are 0
        self.bound = question.margin + self.shift

    def odds(self, blank: Odds) -> Odds:
        blank = replace(blank, rows=self.n, clusters=self.clusters)
        if self.n < 2 or self.clusters == 1:
            return replace(blank, power=0.0, truth="whatever the model")
        if not self.shares and self.error() is None:
            what = f"how much {self.metric.name} varies is not known before a first run"
            return replace(blank, missing=what)
        assumed = self.assumed()
        at = partial(self.power, assumed)
        truth, words = self.truth(at)
        return replace(
            blank,
            effective=self.n / assumed.effect if assumed.effect > 1 else 0.0,
            power=at(truth, self.bound, self.n),
            truth=words,
            assumed=(*blank.assumed, *assumed.notes),
            proves=self.proves(at),
            needed=self.needed(at, truth),
        )

    # -- what is assumed ---------------------------------------------------------------------------

    def error(self) -> float | None:
        """Return the standard error that the last run's interval implies, for its number of rows."""
        v = self.past
        if v is None or v.lower is None or v.upper is None or v.alpha is None or v.method in EXACT:
            return None
        width = (v.upper - v.lower) / 2
        if not math.isfinite(width) or width <= 0:
            return None
        from scipy.stats import t

        return width / float(t.isf(v.alpha, max((v.clusters or v.n) - 1, 1)))

    def assumed(self) -> _Assumed:
        error, past = self.error(), self.past
        spread = error * math.sqrt(past.n) if error is not None and past else None
        if not self.shares:
            return _Assumed(spread, notes=(f"a row varies by {spread:.3g}, {self.where}",))
        discordance, notes = power.DISCORDANCE, []
        if self.gate.versus:
            if past and past.n:
                changed = len(past.won) + len(past.lost)
                discordance = changed / past.n if changed else min(3 / past.n, discordance)  # the rule of three
            notes.append(f"{discordance:.1%} of rows differ, {self.where}")
        if self.clusters is None:
            return _Assumed(None, discordance, 1.0, tuple(notes))
        effect, how = power.design_effect(self.sizes, ICC), f"assumed (correlation {ICC:g})"
        if past and spread is not None and past.estimate is not None:
            estimate = abs(past.estimate)
            variance = discordance - estimate**2 if self.gate.versus else estimate * (1 - estimate)
            if variance > 0:
                effect, how = max(1.0, spread**2 / variance), self.where
        notes.append(f"clusters cost a factor {effect:.2f}, {how}")
        return _Assumed(None, discordance, effect, tuple(notes))

    def power(self, assumed: _Assumed, truth: float, bound: float, n: float) -> float:
        """Return how often n rows prove that the truth is above the bound."""
        if assumed.spread is not None:
            clusters = round(self.clusters * n / self.n) if self.clusters else None
            return power.mean_power(truth, bound, assumed.spread, n, self.alpha, clusters)
        rows = n / assumed.effect
        if not self.gate.versus:
            return power.share_power(truth, bound, rows, self.alpha)
        differ = min(max(assumed.discordance, abs(truth)), 1.0)
        return power.pairs_power(truth, -bound, differ, rows, self.alpha)

    # -- what follows ------------------------------------------------------------------------------

    def truth(self, at: Power) -> tuple[float, str]:
        """Return the truth that power is told for, and in words what kind of model that is."""
        if self.gate.worse_by_at_most is not None:
            return 0.0, f"if it equals {self.gate.versus}"
        if self.past and self.past.estimate is not None:
            value = self.past.estimate
            return self.sign * value + self.shift, f"if it is {self.shown(value)} again"
        reach = self.reach(at)
        if reach is None:
            return self.bound, "whatever the model"
        return reach, f"if it is {self.shown(self.turned_back(reach))}"

    def reach(self, at: Power) -> float | None:
        """Return the truth above the bound that is proven with the power wanted; None when there is none."""
        most = 1.0 - self.bound if self.shares else 1.0
        while not self.shares and at(self.bound + most, self.bound, self.n) < power.POWER:
            most *= 2
        found = power.smallest_margin(lambda x: at(self.bound + x, self.bound, self.n), most)
        return None if found is None else self.bound + found

    def proves(self, at: Power) -> str:
        """Write the smallest margin of an equal model, or the least good model, that is proven with that power."""
        if self.gate.worse_by_at_most is None:
            reach = self.reach(at)
            return "" if reach is None else self.shown(self.turned_back(reach))
        most = 0.99
        while not self.shares and at(0.0, -most, self.n) < power.POWER:
            most *= 2
        margin = power.smallest_margin(lambda m: at(0.0, -m, self.n), most)
        return "" if margin is None else f"a margin of {self.shown(-self.sign * margin).lstrip('+-')}"

    def needed(self, at: Power, truth: float) -> int | None:
        """Return the fewest rows that have the power wanted; None where rows are not what is missing."""
        if truth <= self.bound or at(truth, self.bound, MOST) < power.POWER:
            return None
        return power.rows_for(lambda n: at(truth, self.bound, n))

    def turned_back(self, truth: float) -> float:
        return self.sign * (truth - self.shift)

    def shown(self, value: float) -> str:
        """Write a value in the metric's units, a perplexity's change as a share."""
        if self.metric.scale == "perplexity":
            return f"{math.expm1(value):+.1%}" if self.gate.versus else f"{math.exp(value):.4g}"
        return f"{value:+.3g}" if self.gate.versus else f"{value:.3g}"


# -- earlier runs ----------------------------------------------------------------------------------


def name_of(run: Run) -> str:
    """Name a run by its folder, without the suite's name."""
    return Path(run.folder).name.removeprefix(f"{run.suite}-")


def _reports(out: Path, suite: str) -> list[Path]:
    return sorted(out.glob(f"{suite}-*T*Z*/report.json"), key=lambda p: p.parent.name, reverse=True)


def _read(path: Path, model: str) -> Run | None:
    try:
        run = read_run(path)
    except (UsageError, TypeError, KeyError, AttributeError, ValueError):
        return None  # of an older version; there is nothing to learn from it
    return run if run.model == model else None
