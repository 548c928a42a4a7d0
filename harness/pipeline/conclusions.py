"""What follows from the verdicts: the exit code, and in words whether it was worth training.

A tuned model is compared with the same base with worked examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.collection.plan import Plan
from harness.errors import ExitCode
from harness.gates.decide import judge
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.changes import changes_of, sentences
from harness.pipeline.ledger import attempts_said
from harness.pipeline.record import Record
from harness.pipeline.session import Session
from harness.records import words
from harness.records.gates import Gate, Outcome, Verdict
from harness.records.samples import Result
from harness.stats.tests import holm
from harness.suite.waivers import unneeded


def exit_code(record: Record, adjudicator: Adjudicator) -> ExitCode:
    """Return the exit code of what was found: a failure outranks what could not be decided."""
    verdicts, about = adjudicator.verdicts, record.about
    held = [v.outcome for v in verdicts if v.holds_up]
    if Outcome.FAIL in held or any(f.counts for f in record.findings):
        return ExitCode.FAILED
    if not verdicts:
        return ExitCode.NOTHING_GATED
    if held or any(r.outcome == "error" for r in record.reports):
        return ExitCode.INCONCLUSIVE
    whole = len(verdicts) == about.gates and any(v.blocking and v.decides for v in verdicts)
    return ExitCode.OK if whole and not (about.selecting or about.part) else ExitCode.INCONCLUSIVE


def conclude(session: Session, record: Record, adjudicator: Adjudicator) -> None:
    """Add to the record what follows from the verdicts, in words."""
    verdicts, plan = adjudicator.verdicts, session.collection
    attempts = attempts_said(verdicts, plan.suite.about.attempts == "spend", [*adjudicator.standings.values()])
    if adjudicator.ledger and adjudicator.ledger.empty and adjudicator.standings:
        attempts.append("earlier attempts at these rows are not known here: the ledger begins with this run")
    idle = unneeded(record.about.waivers, verdicts)
    if record.compared != len(adjudicator.results):
        record.compared = len(adjudicator.results)
        record.add(changes=changes_of(plan, adjudicator.results))
    said = [*conclusions(plan, adjudicator.results, verdicts), *sentences(plan, record.changes)]
    record.concluded([*record.choices, *said, *attempts, *idle])


def conclusions(plan: Plan, results: Mapping[tuple[str, str], Result], verdicts: Sequence[Verdict]) -> list[str]:
    """Return for each candidate that may ship, and each few-shot baseline, whether fine-tuning is warranted.

    By the gates that ask to be better than it; without one, by a comparison of what both answered.
    """
    measured = [c for c in plan.candidates if any(subject == c for subject, _ in results)]
    shipping = [c for c in measured if any(e.candidate == c for e in plan.suite.exports)] or measured[-1:]
    prompted = [n for n, s in plan.suite.subjects.items() if s.examples and not s.use and not s.released]
    found = []
    for candidate in shipping:
        for name in prompted:
            claims = _gated(plan, verdicts, candidate, name)
            if not claims:
                attempt = max((v.attempt for v in verdicts if v.candidate == candidate), default=0)
                claims = _compared(plan, results, candidate, name, plan.suite.about.risk(attempt))
            if claims:
                found.append(_said(candidate, plan.suite.subjects[name].examples, claims))
    return found


def _gated(plan: Plan, verdicts: Sequence[Verdict], candidate: str, baseline: str) -> list[Verdict]:
    better = {g.id for g in plan.suite.gates if g.versus == baseline and g.better_by is not None}
    return [v for v in verdicts if v.candidate == candidate and v.gate in better]


def _compared(
    plan: Plan, results: Mapping[tuple[str, str], Result], candidate: str, baseline: str, alpha: float
) -> list[Verdict]:
    """Ask of each eval that both answered, by its first metric, what a gate would have asked; it gates nothing.

    One that is proven is enough for the words, so all of them share alpha by Holm's method.
    """
    found = []
    for name, task in plan.tasks.items():
        ours, theirs = results.get((candidate, name)), results.get((baseline, name))
        if ours and theirs and task.metrics:
            metric = next(iter(task.metrics.values()))
            among = len(plan.tasks)
            gate = Gate("", f"{name}.{metric.name}", versus=baseline, better_by=0.0, severity="warn", among=among)
            samples = task.samples or ()
            verdict = judge(gate, metric, ours, theirs, samples, alpha, name=candidate)
            found.append(replace(verdict, gate=gate.metric))
    adjusted = holm([1.0 if v.p_pass is None else v.p_pass for v in found])
    return [
        replace(v, outcome=Outcome.INCONCLUSIVE) if v.outcome is Outcome.PASS and p > alpha else v
        for v, p in zip(found, adjusted, strict=True)
    ]


def _said(candidate: str, examples: int, claims: Sequence[Verdict]) -> str:
    proven = [v for v in claims if v.outcome is Outcome.PASS]
    better = f"better than the base with {examples} examples in its prompt"
    if not proven:
        why = "; ".join(f"{v.metric} {_short(v)}" for v in claims)
        return f"fine-tuning is not warranted by this evidence: {candidate} is not shown to be {better} ({why})"
    text = f"fine-tuning is warranted: {candidate} is {better} on {' and '.join(v.metric for v in proven)}"
    open_ = [v.metric for v in claims if v.outcome is not Outcome.PASS]
    return text + (f", but this is not shown on {' and '.join(open_)}" if open_ else "")


def _short(v: Verdict) -> str:
    """Return how a claim that was not proven stands."""
    if v.outcome is Outcome.ERROR:
        return f"could not be compared: {v.why}"
    if v.outcome is Outcome.FAIL:
        return f"is shown not to be: {words.figures(v)}"
    return "; ".join(filter(None, [words.figures(v), words.needed(v)]))
