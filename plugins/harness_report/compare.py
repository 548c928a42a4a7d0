"""Two runs side by side: gates, metrics on the rows that both asked by a gate's own tests, configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness import Gate, Metric, Outcome, Result, Sample, Score, UsageError, Verdict
from harness.internals import counted, judge, sentence, shown
from harness_report.made import Setting, settings_of
from harness_report.pairs import LOST, WON, Pairs, paired
from harness_report.reading import Kept, Row, value_of
from harness_report.words import day

OTHER = "the other run"  # the name of the baseline in a test between two runs
READINGS = {Outcome.PASS: "better", Outcome.FAIL: "worse", Outcome.INCONCLUSIVE: "not told apart"}


@dataclass(frozen=True)
class Both:
    """A gate of this run, and the same gate of the run it is compared with, where that has it."""

    now: Verdict
    before: Verdict | None

    @property
    def is_same(self) -> bool:
        """Return whether both runs came to the same numbers."""
        b, keys = self.before, ("outcome", "estimate", "lower", "upper", "claim")
        return b is not None and all(getattr(self.now, k) == getattr(b, k) for k in keys)


@dataclass(frozen=True)
class Between:
    """A metric of two runs on the rows that both asked, tested as a gate "better than the other run" would be."""

    metric: str
    verdict: Verdict
    reading: str
    now: float | None
    before: float | None
    pairs: Pairs
    left: int  # rows that only one run asked, or that another text stands in

    @property
    def is_alike(self) -> bool:
        """Return whether no row changed."""
        return bool(self.pairs.rows) and not self.pairs.count(LOST) + self.pairs.count(WON)


@dataclass(frozen=True)
class Compared:
    """What differs between two runs."""

    now: Kept
    before: Kept
    gates: list[Both]
    same: list[Both]  # gates that came to the same numbers
    metrics: list[Between]
    settings: list[Setting]
    notes: list[str]

    @property
    def labels(self) -> tuple[str, str]:
        """The names of both runs, the earlier first: their days, else the hours, else their folders."""
        runs = (self.before, self.now)
        days = [day(k.run.started, time=False) for k in runs]
        hours = [day(k.run.started).rpartition(", ")[2] for k in runs]
        folders = [shown(k.folder.resolve().name) for k in runs]
        one, other = next((names for names in (days, hours) if names[0] != names[1]), folders)
        return one, other


def compare(now: Kept, before: Kept) -> Compared:
    """Compare a run with another one, which came before it."""
    theirs = {(v.gate, v.candidate): v for v in before.run.verdicts}
    both = [Both(v, theirs.get((v.gate, v.candidate))) for v in sentence.worst_first(now.run)]
    between = _all_between(now, before)
    settings = [*_differing(now, before), *_versions(now, before), *_weights(now, before)]
    differ, same = [b for b in both if not b.is_same], [b for b in both if b.is_same]
    return Compared(now, before, differ, same, between, settings, _notes(now, before, between))


def _all_between(now: Kept, before: Kept) -> list[Between]:
    """Return every metric of one number a row that both runs have of the page's candidate, the worst first."""
    found = []
    for report in now.run.reports:
        if report.subject != now.ours or not before.report(before.ours, report.eval):
            continue
        metric, _ = now.against(report.eval)
        if not now.scale(f"{report.eval}.{metric}").is_of_rows:
            continue
        found.append(_between(now, before, report.eval, metric))
    order = {"worse": 0, "not told apart": 1, "better": 2}
    return sorted(found, key=lambda b: order.get(b.reading, 3))


def _between(now: Kept, before: Kept, evaluation: str, metric: str) -> Between:
    """Test one metric on the rows that both runs asked."""
    ours, theirs = now.rows(now.ours, evaluation), before.rows(before.ours, evaluation)
    ids = [i for i in ours if i in theirs and _asks(ours[i]) == _asks(theirs[i])]
    left = len(ours.keys() | theirs.keys()) - len(ids)
    name = f"{evaluation}.{metric}"
    one, other = {i: ours[i] for i in ids}, {i: theirs[i] for i in ids}
    pair = paired(metric, other, one, (before.ours, now.ours), lower=now.is_lower(name))
    verdict = _judged(now, before, name, one, other)
    values = verdict.value, verdict.baseline
    if now.run.digests.get(now.ours) == before.run.digests.get(before.ours):
        reading = "the same model"
    else:
        reading = READINGS.get(verdict.outcome, "not comparable")
    found = Between(name, verdict, reading, *values, pair, left)
    return replace(found, reading="the same on every row") if found.is_alike else found


def _asks(row: Row) -> tuple[object, object]:
    return row.get("prompt_hash"), row.get("target_hash")


def _judged(now: Kept, before: Kept, name: str, ours: Mapping[str, Row], theirs: Mapping[str, Row]) -> Verdict:
    """Put the claim "better than the other run" to rows, as a gate with no margin would be."""
    evaluation, _, metric = name.partition(".")
    better = "lower" if now.is_lower(name) else "higher"
    measured = Metric(metric, better, now.scale(name).scale)  # type: ignore[arg-type]
    gate = Gate("between", name, versus=OTHER, better_by=0.0, severity="warn")
    samples = [Sample(i, cluster=row.get("cluster"), row={}) for i, row in ours.items()]
    results = (_result(now, evaluation, metric, ours), _result(before, evaluation, metric, theirs))
    try:
        return judge(gate, measured, *results, samples, now.run.alpha, name=now.ours)
    except ModuleNotFoundError as error:
        hint = f"needs {error.name}, which is not installed; pip install 'finetune-harness[recompute]'"
        raise UsageError(f"two runs: the test of {name} {hint}") from None


def _result(kept: Kept, evaluation: str, metric: str, rows: Mapping[str, Row]) -> Result:
    scores = tuple(_score(i, row, metric) for i, row in rows.items())
    digest = kept.run.digests.get(kept.ours) or kept.run.started
    return Result(kept.ours, evaluation, scores, {}, digest)


def _score(key: str, row: Row, metric: str) -> Score:
    value, weights = value_of(row, metric), row.get("weights")
    own = weights.get(metric) if isinstance(weights, dict) else None
    weight = own if isinstance(own, (int, float)) else row.get("weight")
    known = float(weight) if isinstance(weight, (int, float)) else 1.0
    return Score(key, {} if value is None else {metric: value}, weight=known)


# -- what else differs -----------------------------------------------------------------------------


def _differing(now: Kept, before: Kept) -> list[Setting]:
    return [s for s in settings_of(now, before) if s.before is not None]


def _versions(now: Kept, before: Kept) -> list[Setting]:
    ours, theirs = now.run.versions, before.run.versions
    names = dict.fromkeys([*ours, *theirs])
    return [
        Setting(n, ours.get(n, "not there"), theirs.get(n, "not there")) for n in names if ours.get(n) != theirs.get(n)
    ]


def _weights(now: Kept, before: Kept) -> list[Setting]:
    ours, theirs = now.run.digests, before.run.digests
    names = [n for n in ours if n in theirs and ours[n] != theirs[n]]
    return [Setting(f"weights of {n}", ours[n][:12], theirs[n][:12]) for n in names]


def _notes(now: Kept, before: Kept, between: Sequence[Between]) -> list[str]:
    """Return what a reader must know before believing a comparison."""
    found = []
    if now.run.suite != before.run.suite:
        found.append(f"two suites, {shown(now.run.suite)} and {shown(before.run.suite)}: what has one name is compared")
    if now.ours != before.ours:
        found.append(f"{shown(now.ours)} of this run is compared with {shown(before.ours)} of the other")
    for b in between:
        if b.left:
            evaluation = b.metric.partition(".")[0]
            found.append(f"{evaluation}: {counted(b.left, 'row')} not asked alike in both runs, and left out")
    only = [r.eval for r in now.run.reports if r.subject == now.ours and not before.report(before.ours, r.eval)]
    if only:
        found.append(f"only this run measured {', '.join(map(shown, only))}")
    for kept in (now, before):
        found += [f"{shown(kept.folder.resolve().name)}: {shown(m)}" for m in dict.fromkeys(kept.missing)]
    return found
