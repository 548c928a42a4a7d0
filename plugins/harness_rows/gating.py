"""Two runs that another tool scored -> a verdict, by the same tests as a run of ours: pair, compare, decide."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness import Caveat, Gate, Metric, Outcome, Result, Sample, Score, UsageError, Verdict, digest_of
from harness.internals import Ledger, Look, Note, Standing, attempts_said, counted, judge, shown, spent, words
from harness_rows import fairness, pairing
from harness_rows.fairness import Compared
from harness_rows.metrics import Chosen, choose, weight_of, worst_of
from harness_rows.pairing import Pairs, Rows
from harness_rows.records import RawRows, Wanted

EXAMPLES = 3  # rows and reasons that are named
KINDS = 60  # characters of a reason by which errors are counted
TRUST = "rows are taken on trust; no bytes are bound"
NONE: Mapping[str, float] = {}  # one for all scores, of which there may be millions
SAID = {"error": "ended in an error", "limit": "ended at a limit", "skipped": "were skipped", "absent": "are absent"}
STATES = ("scored", "error", "limit", "skipped", "unscored", "absent")


@dataclass(frozen=True)
class Ask:
    """What somebody asks of rows: a claim about them, and what may stand in its way."""

    gate: Gate
    want: Wanted
    missing: Literal["refuse", "wrong"] = "refuse"
    allow: frozenset[str] = frozenset()
    only_common: bool = False
    alpha: float = 0.05
    spend: bool = False
    path: Path = Path("gate.toml")
    name: str = "gate"

    @property
    def digest(self) -> str:
        return digest_of([self.gate.claim(), self.want.task, self.want.metric, self.missing, sorted(self.allow)])


@dataclass(frozen=True)
class Gated:
    """What came of two runs: the verdict, and everything that was found on the way to it."""

    ask: Ask
    base: RawRows | None
    candidate: RawRows
    pairs: Pairs
    chosen: Chosen
    fair: Compared
    samples: tuple[Sample, ...]
    results: Mapping[str, Result]
    states: Mapping[str, Mapping[str, int]]
    verdict: Verdict
    attempts: tuple[str, ...] = ()


def decide(base: RawRows | None, candidate: RawRows, ask: Ask, ledger: Ledger | None) -> Gated:
    """Decide a claim on the rows of two runs; without a base, on those of one.

    Raises UsageError where they cannot be read as one metric of the same rows, or not be compared fairly.
    """
    runs = [candidate] if base is None else [base, candidate]
    _check_files(runs)
    pairs = pairing.pair(base or candidate, candidate, only_common=ask.only_common)
    fair = Compared() if base is None else fairness.compare(base, candidate, pairs, ask.allow)
    chosen = choose(runs, ask.want)
    name, metric = re.sub(r"[^\w-]", "_", candidate.task)[:80] or "rows", chosen.metric
    gate = replace(ask.gate, metric=f"{name}.{metric.name}")
    if wrong := [*gate.mistakes(), *gate.mistakes_on(metric)]:
        raise UsageError(*wrong)
    if ask.missing == "wrong" and worst_of(metric) is None:
        raise UsageError(f"--missing wrong: {shown(metric.name)} has no worst value that a row could count as")
    samples = tuple(_samples(pairs))
    sides = {"base": pairs.base, "candidate": pairs.candidate} if base else {"candidate": pairs.candidate}
    results, states = {}, {}
    for side, run in zip(sides, runs, strict=True):
        states[side] = Counter(_state(rows, metric.name) for rows in sides[side])
        results[side] = _result(side, name, run, samples, sides[side], chosen, ask)
    standing = _attempt(ask, ledger, pairs, candidate, results["candidate"])
    number = standing.number if standing else 0
    alpha = spent(ask.alpha, number) if number and ask.spend else ask.alpha
    columns = sorted({column for sample in samples for column in sample.row})
    ours, theirs = results["candidate"], results.get("base")
    verdict = judge(gate, metric, ours, theirs, samples, alpha, name="candidate", columns=columns)
    if verdict.outcome is not Outcome.ERROR:  # which looked at no number
        verdict = replace(verdict, attempt=number)
        verdict = words.noted(verdict, Note("attempt", {"number": number})) if number > 1 else verdict
    notes = [Note("rows", {"text": text}) for text in _conditions(ask, pairs, fair, states, candidate)]
    verdict = words.noted(verdict, *notes)
    said = attempts_said([verdict], ask.spend, [standing]) if standing else []
    return Gated(ask, base, candidate, pairs, chosen, fair, samples, results, states, verdict, tuple(said))


def _check_files(runs: Sequence[RawRows]) -> None:
    """Raise UsageError where two runs are one file."""
    read = [sorted((digest, size) for _, digest, size in run.sources) for run in runs]
    if len(runs) == 2 and read[0] and read[0] == read[1] and runs[0].model == runs[1].model:
        raise UsageError(f"base and candidate are the same file (sha256 {read[0][0][0][:4]}…); nothing was changed")


def _samples(pairs: Pairs) -> list[Sample]:
    """Return the rows as they are judged. Raises UsageError where the sides tell of other clusters or slices."""
    found = []
    for name, theirs, ours in zip(pairs.names, pairs.base, pairs.candidate, strict=True):
        one = (ours or theirs)[0]
        other = theirs[0] if theirs else one
        cluster, slices = one.cluster or other.cluster, one.slices or other.slices
        if (other.cluster or cluster, other.slices or slices) != (cluster, slices):
            raise UsageError(f'row "{shown(name)}" is of another cluster or slice in base than in candidate')
        found.append(Sample(name, row=slices, cluster=cluster or None, key=one.content))
    return found


def _state(rows: Rows, name: str) -> str:
    """Return what came of a row: scored, or the worst of what came of its repeats."""
    found = {"unscored" if row.state == "scored" and name not in row.values else row.state for row in rows}
    return next((state for state in STATES[1:] if state in found), "scored") if rows else "absent"


def _result(
    side: str, name: str, run: RawRows, samples: Sequence[Sample], rows: Sequence[Rows], chosen: Chosen, ask: Ask
) -> Result:
    """Return a run as a result of ours: what has no score counts against the claim, or keeps it from being judged."""
    metric, fill = chosen.metric, None
    if ask.missing == "wrong" and (worst := worst_of(metric)) is not None:
        fill = worst if side == "candidate" else 1.0 - worst
    shared: dict[float, dict[str, float]] = {}
    scores, missing = [], []
    for sample, own in zip(samples, rows, strict=True):
        value = _value(own, metric.name, fill)
        if value is None:
            missing.append(sample.id)
        else:
            values = shared.setdefault(value, {metric.name: value})
            weight = weight_of(own[0], metric.name) if own else 1.0
            scores.append(Score(sample.id, values, weight, weights=NONE, details=NONE))
    caveats = (Caveat(_lost(side, samples, rows, metric, run), "ERROR"),) if missing else ()
    digest = digest_of([*run.sources, run.model])
    means = {metric.name: metric.value(scores)} if scores else {}
    return Result(side, name, tuple(scores), means, digest, tuple(missing), caveats=caveats)


def _value(rows: Rows, name: str, fill: float | None) -> float | None:
    """Return the mean of what the repeats of a row scored; None where one has no score, and nothing to count as."""
    if len(rows) == 1 and rows[0].state == "scored" and name in rows[0].values:
        return rows[0].values[name]
    found = [row.values.get(name, fill) if row.state == "scored" else fill for row in rows] or [fill]
    known = [v for v in found if v is not None]
    return math.fsum(known) / len(known) if len(known) == len(found) else None


def _lost(side: str, samples: Sequence[Sample], rows: Sequence[Rows], metric: Metric, run: RawRows) -> str:
    """Return how many rows of a side have no score, and why."""
    lost = [(s.id, own) for s, own in zip(samples, rows, strict=True) if _value(own, metric.name, None) is None]
    states = Counter(_state(own, metric.name) for _, own in lost)
    told = [f"{n:,} {'row' if n == 1 else 'rows'} {SAID.get(state, 'have no score')}" for state, n in states.items()]
    why = Counter(row.why[:KINDS] for _, own in lost for row in own if row.why)
    reasons = f" ({', '.join(f'{n} {shown(text)}' for text, n in why.most_common(EXAMPLES))})" if why else ""
    names = ", ".join(f'"{shown(i)}"' for i, _ in lost[:EXAMPLES])
    whole = " all of them, whatever the log says;" if len(lost) == len(rows) else ""
    return f"{side}: {', '.join(told)}{reasons},{whole} {names}; rerun them, or --missing wrong"


def _attempt(ask: Ask, ledger: Ledger | None, pairs: Pairs, run: RawRows, result: Result) -> Standing | None:
    """Count this look at the rows, and return which attempt it is."""
    if ledger is None:
        return None
    if pairs.how == "content":
        known = [(ours or theirs)[0].content for theirs, ours in zip(pairs.base, pairs.candidate, strict=True)]
    else:  # a name says less than what was asked: the same names under one task are taken for the same rows
        known = [digest_of([run.task, name])[:32] for name in pairs.names]
    scored = {score.id: [*score.values.values()] for score in result.scores}
    weights = digest_of(sorted([k, *scored.get(name, ())] for k, name in zip(known, pairs.names, strict=True)))
    look = Look("merged", run.bound if run.binding == "claimed" else weights, frozenset((k,) for k in known))
    with ledger.locked():
        standing = ledger.standing(look)
        ledger.record(standing, look, ask, "candidate", result.eval)
    return standing


def _conditions(
    ask: Ask, pairs: Pairs, fair: Compared, states: Mapping[str, Mapping[str, int]], run: RawRows
) -> list[str]:
    """Return under which conditions a verdict stands, each a part of its reason."""
    found = [f"allowed: {text}" for text in fair.allowed]
    if any(pairs.dropped):
        one, other = pairs.dropped
        found.append(f"{counted(one, 'row')} of base and {other:,} of candidate alone are not judged (--only-common)")
    lost = {side: sum(told.values()) - told.get("scored", 0) for side, told in states.items()}
    if ask.missing == "wrong" and any(lost.values()):
        told = " and ".join(f"{n:,} of {side}" for side, n in lost.items() if n)
        found.append(f"rows without a score, {told}, count against the claim (--missing wrong)")
    bound = {"none": TRUST, "named": f"rows are taken on trust, of what calls itself {shown(run.bound)}"}
    return [*found, bound.get(run.binding, f"rows are taken on trust, claimed to be of {shown(run.bound)}")]
