"""Exit code and worded conclusions that follow from the verdicts.

They tell whether training was worth it, and how merging changed the scores. A tuned model is compared with the same
base with worked examples. A candidate is compared with the one that it was merged or converted from, on the rows that
both answered: no gate need ask that, so it is always reported. Neither comparison decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.collection.collection import Collection, Task
from harness.errors import ExitCode
from harness.evaluation.baselines import find_weakness
from harness.gates.decide import decide
from harness.gates.gate_input import Unjudgeable, make_gate_input
from harness.gates.hypothesis import make_hypothesis
from harness.gates.inference import run_hypothesis_test
from harness.gates.outcome import list_changed_rows
from harness.pipeline.ledger import describe_attempts
from harness.pipeline.run_context import RunContext
from harness.records import verdict_text
from harness.records.changes import Change
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result
from harness.records.verdict_figures import change_figures
from harness.records.verdicts import Outcome, Verdict
from harness.reports.summary import ignored_errors
from harness.stats.multiple_testing import adjust_holm
from harness.suite.waivers import unneeded_waivers
from harness.texts.numbers import format_metric

MAX_ROUNDING_SHARE = 0.005  # of a value: what weights that are rounded once change, and no conclusion
Results = Mapping[tuple[str, str], Result]  # by subject and eval


def compute_exit_code(run: RunContext) -> ExitCode:
    """Return the exit code of a run. A failure outranks gates that could not be decided."""
    verdicts, found = run.adjudicator.verdicts, run.record.run
    held = [v.outcome for v in verdicts if v.blocks_release]
    if Outcome.FAIL in held or any(f.stops_run for f in found.findings):
        return ExitCode.FAILED
    if not verdicts:
        return ExitCode.NOTHING_GATED
    if held or any(r.outcome == "error" for r in found.results):
        return ExitCode.INCONCLUSIVE
    whole = len(verdicts) == found.gates and any(v.blocking and v.decides for v in verdicts)
    return ExitCode.OK if whole and not (found.selecting or found.part) else ExitCode.INCONCLUSIVE


def record_conclusions(run: RunContext) -> None:
    """Record the conclusions from the verdicts in words."""
    record, adjudicator, collection = run.record, run.adjudicator, run.collection
    verdicts, results = adjudicator.verdicts, adjudicator.results
    attempts = describe_attempts(
        verdicts, collection.suite.header.attempts == "spend", [*adjudicator.standings.values()]
    )
    if adjudicator.ledger and adjudicator.ledger.empty and adjudicator.standings:
        attempts.append("earlier attempts at these rows are unknown: the ledger begins with this run")
    if record.compared != len(results):
        record.compared = len(results)
        record.run.changes = tuple(measure_changes(collection, results)) or record.run.changes
    record.run.warranted = write_conclusions(collection, results, verdicts)
    # What a step changed is told of the metrics of gates, and of the first of each evaluation.
    named = {f"{n}.{next(iter(t.metrics))}" for n, t in collection.tasks.items() if t.metrics}
    named |= {g.metric for g in collection.suite.gates}
    said = [*record.run.warranted]
    for c in (c for c in record.run.changes if f"{c.eval}.{c.metric}" in named):
        merging = "merging" if c.after == "merged" else f"the merge {c.after}"
        said.append(
            _describe_change(c, f"making {c.after} of {c.before}" if c.after in collection.suite.copies else merging)
        )
    attempts += unneeded_waivers(record.run.waivers, verdicts, record.run.findings)
    blocked = ", ".join(name for name in collection.plugins.asked if name.startswith("no:"))
    left_out = [f"plugins were blocked in this run: -p {blocked}"] if blocked else []
    record.run.conclusions = [
        *ignored_errors(record.run),
        *left_out,
        *record.choices,
        *dict.fromkeys(verdict_text.format_runs(v) for v in verdicts if v.run_values),
        *filter(None, said),
        *attempts,
    ]


def write_conclusions(collection: Collection, results: Results, verdicts: Sequence[Verdict]) -> list[str]:
    """Conclude whether fine-tuning is warranted against each few-shot baseline.

    There is a sentence for each candidate that may ship. Gates that ask to be better than the baseline decide; without
    one, the answers of both are compared.
    """
    measured = [c for c in collection.candidates if any(subject == c for subject, _ in results)]
    shipping = [c for c in measured if any(e.candidate == c for e in collection.suite.exports)] or measured[-1:]
    prompted = [n for n, s in collection.suite.subjects.items() if s.examples and not s.use and not s.released]
    found = []
    for candidate in shipping:
        for name in prompted:
            better = {g.id for g in collection.suite.gates if g.versus == name and g.better_by is not None}
            if not (claims := [v for v in verdicts if v.candidate == candidate and v.gate in better]):
                attempt = max((v.attempt for v in verdicts if v.candidate == candidate), default=0)
                claims = _compare_candidate_with_baseline(
                    collection, results, candidate, name, collection.suite.header.risk(attempt)
                )
            if claims:
                weak = _map_metrics_to_weakness(collection, results, name, claims)
                found.append(
                    _format_fine_tuning_conclusion(candidate, collection.suite.subjects[name].examples, claims, weak)
                )
    return found


def _map_metrics_to_weakness(
    collection: Collection, results: Results, baseline: str, claims: Sequence[Verdict]
) -> dict[str, str]:
    """Explain the weak baselines of proven claims, by metric. A claim proves nothing against such a baseline."""
    weak: dict[str, str] = {}
    for verdict in claims:
        name, _, metric = verdict.metric.partition(".")
        task, prompted = collection.tasks.get(name), results.get((baseline, name))
        if task and prompted and metric in task.metrics and verdict.outcome is Outcome.PASS:
            why = find_weakness(task, task.metrics[metric], prompted, results.get(("base", name)))
            weak |= {verdict.metric: why} if why else {}
    return weak


def _compare_candidate_with_baseline(
    collection: Collection, results: Results, candidate: str, baseline: str, alpha: float
) -> list[Verdict]:
    """Test a candidate against a baseline on each eval's first metric.

    Only evals that both answered count, and nothing is gated. One proven metric is enough for the conclusion, so all of
    them share alpha by Holm's method.
    """
    found = []
    for name, task in collection.tasks.items():
        ours, theirs = results.get((candidate, name)), results.get((baseline, name))
        if ours and theirs and task.metrics:
            metric, among = next(iter(task.metrics.values())), len(collection.tasks)
            gate = Gate("", f"{name}.{metric.name}", versus=baseline, better_by=0.0, severity="warn", among=among)
            verdict = decide(gate, metric, ours, theirs, task.samples or (), alpha, name=candidate)
            found.append(replace(verdict, gate=gate.metric))
    return [
        replace(v, outcome=Outcome.INCONCLUSIVE) if v.outcome is Outcome.PASS and p > alpha else v
        for v, p in zip(found, adjust_holm([1.0 if v.p_pass is None else v.p_pass for v in found]), strict=True)
    ]


def _format_fine_tuning_conclusion(
    candidate: str, examples: int, claims: Sequence[Verdict], weak: Mapping[str, str]
) -> str:
    proven = [v for v in claims if v.outcome is Outcome.PASS and v.metric not in weak]
    better = f"better than the base with {examples} examples in its prompt"
    if weak and not proven:
        found = "; ".join(f"{metric} {why}" for metric, why in weak.items())
        scores = f"the base with {examples} examples in its prompt scores on {found}"
        return f"whether fine-tuning is warranted is open: {scores}; choose better examples with fewshot_data"
    if proven:
        text = f"fine-tuning is warranted: {candidate} is {better} on {' and '.join(v.metric for v in proven)}"
        open_ = [v.metric for v in claims if v.outcome is not Outcome.PASS]
        return text + (f", but not proven on {' and '.join(open_)}" if open_ else "")
    whys = []
    for v in claims:
        if v.outcome is Outcome.ERROR:
            whys.append(f"{v.metric} could not be compared: {v.why}")
        elif v.outcome is Outcome.FAIL:
            whys.append(f"{v.metric} is proven not to be: {verdict_text.format_figures(v)}")
        else:
            whys.append(
                f"{v.metric} "
                + "; ".join(filter(None, [verdict_text.format_figures(v), verdict_text.format_sample_size(v)]))
            )
    return f"fine-tuning is not warranted by this evidence: {candidate} is not proven {better} ({'; '.join(whys)})"


def measure_changes(collection: Collection, results: Results) -> list[Change]:
    """Measure how merging or converting changed each row metric.

    Each candidate is compared with the one that it was made from.
    """
    parents = dict.fromkeys(map(collection.suite.merged, collection.suite.merges), "adapter")
    parents |= {name: copy.from_ for name, copy in collection.suite.copies.items()}
    found = []
    for after in (c for c in collection.candidates if c in parents):
        for name, task in collection.tasks.items():
            ours, theirs = results.get((after, name)), results.get((parents[after], name))
            if ours and theirs and not task.uncached:
                metrics = [m for m in task.metrics.values() if m.is_of_rows and not (m.combine or m.labelled)]
                changes = (_compare_results(task, m, ours, theirs, collection.suite.header.alpha) for m in metrics)
                found += [change for change in changes if change]
    return found


def _compare_results(task: Task, metric: Metric, ours: Result, theirs: Result, alpha: float) -> Change | None:
    """Compare two results as a gate with margin 0 would.

    None if they cannot be compared. Rows that were looked at one after the other, until a gate was decided, give no
    estimate and no bounds.
    """
    both = {s.id for s in ours.scores} & {s.id for s in theirs.scores}
    samples = [s for s in task.samples or () if s.id in both]
    gate = Gate("", f"{task.spec.name}.{metric.name}", versus=theirs.subject, better_by=0.0, severity="warn")
    ours_there, theirs_there = (
        replace(r, order=(), caveats=(), scores=tuple(s for s in r.scores if s.id in both)) for r in (ours, theirs)
    )
    if isinstance(case := make_gate_input(gate, metric, ours_there, theirs_there, samples, alpha), Unjudgeable):
        return None
    whole = make_hypothesis(case, case.rows)
    rows, values = list_changed_rows(whole), (whole.baseline, whole.value, len(whole.ours))
    found = Change(
        task.spec.name, metric.name, *values, rows["won_count"], rows["lost_count"], rows["won"], rows["lost"],
        scale=metric.scale, before=theirs.subject, after=ours.subject,
    )  # fmt: skip
    if ours.order or theirs.order:
        return found
    try:
        test = run_hypothesis_test(whole)
    except (ValueError, ModuleNotFoundError):  # nothing varies, or no gate of the suite needs numpy
        return found
    if not all(map(math.isfinite, (test.estimate, test.lower, test.upper))):
        return found
    return replace(found, estimate=test.estimate, lower=test.lower, upper=test.upper)


def _describe_change(change: Change, step: str) -> str:
    """Describe how a step changed a metric.

    Empty if no row changed, or the value changed by no more than rounding.
    """
    c, name = change, f"{change.eval}.{change.metric}"
    if not (c.won or c.lost):
        return ""
    values, sure = f"{format_metric(c.theirs)} to {format_metric(c.ours)}", False
    if c.estimate is not None and c.lower is not None and c.upper is not None:
        sure = c.lower > 0 or c.upper < 0
        figures = change_figures(c)
        values = f"{figures.baseline} to {figures.value}, {figures.estimate} {figures.bounds}"
    ours, theirs = c.ours or 0.0, c.theirs or 0.0
    if not c.is_share and (not sure or abs(ours - theirs) <= MAX_ROUNDING_SHARE * abs(theirs)):
        return ""
    if not sure:
        rows = f"changed {name} on {c.won + c.lost} rows, {c.lost} lost and {c.won} won"
        return f"{step} {rows}, which shows no difference ({values})"
    if c.lost > c.won:
        return f"{step} broke {name} on {c.lost} row{'s' if c.lost != 1 else ''} and fixed {c.won} ({values})"
    return f"{step} fixed {name} on {c.won} row{'s' if c.won != 1 else ''} and broke {c.lost} ({values})"
