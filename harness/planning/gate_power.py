"""Before any row is scored: how likely every gate is to be proven, what its rows could prove, and rows needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.collection.collection import Collection, Task
from harness.gates.attempts import AttemptNumber
from harness.gates.clusterings import sort_clusterings
from harness.gates.min_rows import find_unprovable_error
from harness.planning.aa_record import AaRecord
from harness.planning.few_rows import FEW_ROWS, describe_few_rows
from harness.planning.history import MIN_ROWS, History, PastRows, run_name
from harness.planning.power import GatePower
from harness.planning.recipe_power import ROW_FACTORS, SEED_COUNTS, SPREADS, RecipePower, SeedSpread
from harness.records import verdict_text
from harness.records.claims.gate import ADAPTER, Gate
from harness.records.metrics import Metric
from harness.records.parts import CONDITIONS
from harness.records.run import Run
from harness.records.samples import Score
from harness.records.verdicts import Verdict
from harness.stats import power
from harness.stats.hypothesis_tests import attempt_alpha
from harness.stats.multiple_testing import interim_levels
from harness.suite.tables import Suite, gate_alpha

LARGE_GAIN = 0.2  # of a proportion beyond a limit: rows that prove no smaller one are few


@dataclass(frozen=True)
class Odds:
    """The odds of a gate on a candidate.

    `power` is how often a model like `truth` passes; if it is None, `missing` is the reason. `proves` is the smallest
    claim that is proven with power 0.8, in the metric's units, and `needed` the rows that the claim itself would take
    for that, None if no number of rows would do. A gate that is not a matter of power (`kind` "counted", "point",
    "labels") has none; with "alarm" the power is 0, since no slice is large enough to pass.
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
    few: str = ""  # what so few rows of scores cannot prove, and the ways out
    warning: str = ""


@dataclass(frozen=True)
class GateOdds:
    """A gate on a candidate: its odds, and the questions about rows that it is, none where power is no matter."""

    gate: Gate
    odds: Odds
    cases: tuple[GatePower, ...] = ()
    decides: bool = True


def forecast_gates(
    collection: Collection, history: History, attempts: Mapping[tuple[str, str], AttemptNumber], equal_runs: AaRecord
) -> list[GateOdds]:
    """Return every gate on every candidate with its odds.

    `attempts` are those to come, by candidate and eval.
    """
    found = []
    for candidate in collection.candidates:
        for gate in collection.gates(candidate):
            odds = _forecast_gate(collection, gate, candidate, history, attempts, equal_runs)
            found.append(replace(odds, decides=collection.is_decisive(gate, candidate)))
    return found


def _forecast_gate(
    collection: Collection,
    gate: Gate,
    candidate: str,
    history: History,
    attempts: Mapping[tuple[str, str], AttemptNumber],
    equal_runs: AaRecord,
) -> GateOdds:
    task = collection.tasks[gate.eval]
    metric = task.metrics[gate.metric_name]
    alpha, assumed = _find_tested_alpha(collection, gate, task, attempts.get((candidate, gate.eval)))
    about: dict[str, Any] = {"alpha": alpha, "assumed": assumed}
    blank = Odds(gate.id, f"{gate.metric} {gate.claim()}", candidate, gate.blocking, **about)
    if gate.kind.counts or metric.is_count:
        return GateOdds(gate, _make_odds_without_power(blank, gate, task, history.verdict(gate, candidate, fewest=1)))
    samples = task.rows_of(metric.name) or ()
    if metric.is_agreement:
        what = "labels decide it, not rows"
        return GateOdds(gate, replace(blank, kind="labels", rows=len(samples), missing=what))
    if gate.kind.has_test:
        return GateOdds(gate, replace(blank, rows=len(samples), missing="the power of its test is unknown"))
    every, parts = task.samples or (), gate.rows_by_slice(samples)
    number = {s.id: i for i, s in enumerate(every)}
    if not (large := {name: rows for name, rows in parts.items() if gate.slice is None or len(rows) >= gate.min_n}):
        what = f"no slice has min_n = {gate.min_n} rows, so the gate cannot pass"
        return GateOdds(gate, replace(blank, kind="alarm", rows=sum(map(len, parts.values())), missing=what, power=0.0))
    restated, tested = gate.kind.restate(gate, metric)
    past, verdict = history.past_rows(gate, candidate), history.verdict(gate, candidate)
    if past and restated is not gate:
        past = _rescore_past_rows(gate, metric, past)
    recipe = gate.of == "recipe"
    seeds = 1 + len(collection.runs) if recipe else 0
    apart = history.seed_spread(gate, candidate) if recipe else None
    then = gate.rows_by_slice(past.samples) if past else {}
    noise = equal_runs.find_metric(gate.eval, tested.name) if gate.versus and past is None else None
    clusters, *crossed = sort_clusterings(every) or [[s.id for s in every]]
    cases = list[GatePower]()
    for name, rows in large.items():
        chosen = None if len(rows) == len(every) else tuple(number[s.id] for s in rows)
        own = replace(past, samples=then[name]) if past and len(then.get(name, ())) >= MIN_ROWS else None
        before = verdict if len(parts) == 1 else None
        cases.append(
            GatePower(restated, tested, tuple(clusters), chosen, alpha, own, before, seeds, apart, noise, crossed)
        )
    worst = min(cases, key=lambda c: -1.0 if c.chance is None else c.chance)
    odds = _compute_odds(worst, blank, bool(history.runs))
    if len(cases) > 1:
        known = [c.chance for c in cases if c.chance is not None]
        note = f"{len(cases)} slices must all pass; the smallest is {list(large)[cases.index(worst)]}"
        whole = math.prod(known) if len(known) == len(cases) else None
        odds = replace(odds, power=whole, assumed=(note, *odds.assumed))
    if not find_unprovable_error(gate, metric, samples, gate_alpha(gate, collection.suite)):  # else a collection error
        odds = replace(odds, warning=find_unprovable_error(gate, metric, samples, alpha) or _describe_low_power(odds))
    return GateOdds(gate, odds, tuple(cases))


def describe_few_rows_power(gate: Gate, task: Task, suite: Suite) -> str:
    """Warn of a gate on few rows that before any run is more likely not to pass than to. Empty for any other gate."""
    metric, rows = task.metrics.get(gate.metric_name), task.rows_of(gate.metric_name) or ()
    if metric is None or not 2 <= len(rows) < FEW_ROWS or gate.slice is not None or gate.of == "recipe":
        return ""
    if gate.kind.counts or gate.kind.has_test or metric.is_count or metric.is_agreement or metric.combine:
        return ""
    if gate.versus == ADAPTER:  # a merge may change no row, and what it changes is only known once it is made
        return ""
    restated, tested = gate.kind.restate(gate, metric)
    clusters, *crossed = sort_clusterings(rows) or [[s.id for s in rows]]
    alpha = gate_alpha(gate, suite)
    case = GatePower(restated, tested, tuple(clusters), None, alpha, None, None, crossed=crossed)
    if case.chance is None or find_unprovable_error(gate, metric, rows, alpha):  # nothing is known, or it is told
        return ""
    odds = _compute_odds(case, Odds(gate.id, gate.claim(), "a candidate", gate.blocking, alpha=alpha), known=False)
    if why := _describe_low_power(odds):
        return f"of {len(rows)} rows, {why}"
    gains = metric.is_share and gate.worse_by_at_most is None  # then the truth is what has the usual power
    if not gains or case.truth - case.bound < LARGE_GAIN:
        return ""
    return f"of {len(rows)} rows, a candidate passes {power.DEFAULT_POWER:.0%} of the time only {odds.truth}"


def _rescore_past_rows(gate: Gate, metric: Metric, past: PastRows) -> PastRows:
    """Score an earlier run's rows for a restated claim. Each counts once."""
    if past.theirs is None:
        return past
    ids, sides = [s.id for s in past.samples], [past.ours, past.theirs]
    ours, theirs = ([Score(i, {metric.name: side[i][0]}, side[i][1]) for i in ids] for side in sides)
    scored, _ = gate.kind.score_rows(gate, metric, ours, theirs)
    return replace(past, ours={s.id: (s.values[metric.name], s.weight) for s in scored}, theirs=None)


def forecast_recipes(gates: Sequence[GateOdds]) -> list[RecipePower]:
    """Forecast recipe gates' power with more seeds and rows.

    There is one forecast for the spread of the last run, or for each of SPREADS.
    """
    found = []
    for case in (case for one in gates if one.gate.of == "recipe" for case in one.cases[:1] if case.chance):
        seeds = tuple(sorted({*SEED_COUNTS, case.seeds}))
        for spread in (case.apart,) if case.apart else map(SeedSpread, SPREADS):
            own = replace(case.recipe_rows(case.truth), apart=spread)
            each = [replace(own, seeds=s) for s in seeds]
            chances = tuple(
                tuple(one.power(case.truth, case.bound, case.alpha, t) for t in ROW_FACTORS) for one in each
            )
            rows, where = tuple(case.n * t for t in ROW_FACTORS), case.where if case.apart else "assumed"
            differ = case.format_spread(spread)
            found.append(RecipePower(case.gate.id, case.assumed.words, differ, rows, seeds, chances, where))
    return found


def _find_tested_alpha(
    collection: Collection, gate: Gate, task: Task, standing: AttemptNumber | None
) -> tuple[float, tuple[str, ...]]:
    """Return a gate's tested alpha, and the assumptions behind it.

    They include assumptions of its power, such as no early stopping.
    """
    alpha, assumed = gate_alpha(gate, collection.suite), []
    if collection.suite.header.attempts == "spend" and standing and standing.number > 1:
        alpha = attempt_alpha(alpha, standing.number)
        assumed.append(f"attempt {standing.number}, tested at alpha {alpha:.2g}")
    if standing and (at_most := task.spec.rows_at_most) is not None:
        alpha = interim_levels(standing.stages, at_most, alpha)[-1]
        assumed.append(f"interim analysis at {standing.stages[-1]} of {at_most} rows, at alpha {alpha:.2g}")
    assumed += [note for condition in CONDITIONS if (note := condition.forecast_note(gate))]
    if task.spec.stop == "early":
        assumed.append("computed without early stopping, which costs some power")
    return alpha, tuple(assumed)


def _compute_odds(case: GatePower, blank: Odds, known: bool) -> Odds:
    """Compute the odds of a case, and its provable claims.

    `known` is whether there are earlier runs at all; they may lack this case.
    """
    blank = replace(blank, rows=case.n, clusters=case.count if case.clustered else None, few=describe_few_rows(case))
    if case.chance is None:
        why = f": no earlier run here evaluated it on {MIN_ROWS} rows" if known else " before a first run"
        return replace(blank, missing=f"the variance of {case.metric.name} is unknown{why}")
    if case.cannot_pass:
        assumed = [*blank.assumed, *(["its risk is approximate, and the gate blocks"] if case.is_barred else [])]
        return replace(blank, power=0.0, truth="for any model", assumed=tuple(assumed))
    effective = case.n / case.effect if case.is_binary and case.effect > 1 else 0.0
    return replace(
        blank, effective=effective, power=case.chance, truth=case.assumed[1], proves=case.describe_provable(),
        needed=case.needed(), assumed=(*blank.assumed, *case.notes()),
    )  # fmt: skip


def _describe_low_power(odds: Odds) -> str:
    """Warn of a gate with power below 0.5.

    The power is that on the model that the gate is meant to pass. Empty if it is higher.
    """
    if odds.power is None or odds.power >= 0.5:
        return ""
    cure = (
        f"{odds.needed:,} rows would make it {power.DEFAULT_POWER:.0%}"
        if odds.needed
        else "no number of rows would help"
    )
    return f"{odds.candidate} passes {odds.power:.0%} of the time {odds.truth}; {cure}"


def _make_odds_without_power(blank: Odds, gate: Gate, task: Task, past: tuple[Verdict, Run] | None) -> Odds:
    """Make the odds of a gate without a test.

    It counts, or compares a value directly, so it has no power, only earlier results.
    """
    rows, kind = len(task.rows_of(gate.metric_name) or ()), "counted" if gate.kind.counts else "point"
    what = "failures are counted, without a test" if gate.kind.counts else "decided by its value"
    if gate.kind.counts and rows > 1:
        share = 1 - blank.alpha ** (1 / rows)  # Clopper and Pearson's upper bound of no failures in n rows
        what += f"; no failure in {rows} rows shows that at most {share:.2%} of such rows fail"
    seen = [f"{past[0].outcome} in {run_name(past[1])}: {verdict_text.format_result(past[0])}"] if past else []
    return replace(blank, kind=kind, rows=rows, missing=what, assumed=(*blank.assumed, *seen))
