"""Gates that wait for others: `requires` and `any_of`. A verdict comes as soon as all it waits for is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

from harness import clean
from harness.collect import Item, Plan
from harness.gate import Gate, Outcome, Verdict
from harness.ledger import Attempt, Ledger, spent
from harness.result import Result
from harness.stats import holm
from harness.verdict import judge, unjudged
from harness.waive import Waiver, in_force


class Settlement:
    """The verdicts of a run, candidate by candidate, as its evaluations end."""

    def __init__(
        self, plan: Plan, results: Mapping[tuple[str, str], Result], waivers: Sequence[Waiver], today: date
    ) -> None:
        self.plan, self.results = plan, results
        self.waivers, self.today = waivers, today
        self.gates = {g.id: g for g in plan.suite.gates}
        self.ended: set[tuple[str, str]] = set()
        self.said: dict[tuple[str, str], Verdict] = {}
        self.lacking: Mapping[str, str] = {}  # baselines that are not there, and why
        self.leaks: clean.Leaks | None = None  # rows by evaluation; None as long as nobody looked
        self.ledger: Ledger | None = None  # without one no attempt is counted

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts that were given, in their order: what may ship is read from these alone."""
        return tuple(self.said.values())

    def after(self, item: Item) -> tuple[Verdict, ...]:
        """Return the verdicts that can be given now that an evaluation of a candidate ended, well or not."""
        self.ended.add((item.subject, item.eval))
        if item.subject not in self.plan.candidates:
            return ()
        before = set(self.said)
        for gate in self.plan.gates(item.subject):
            self.give(gate, item.subject)
        return tuple(v for key, v in self.said.items() if key not in before)

    def give(self, gate: Gate, candidate: str) -> None:
        """Judge a gate, and before it those it waits for, if all that it needs has been evaluated."""
        if (candidate, gate.id) in self.said or not self.ready(gate, candidate):
            return
        for name in (*gate.requires, *((gate.group,) if gate.group else ())):
            self.give(self.plan.named(self.gates[name], candidate), candidate)
        if (candidate, gate.id) in self.said:
            return
        if gate.group:
            return  # its group speaks for it
        if unmet := self.unmet(gate, candidate):
            self.say(unjudged(gate, candidate, unmet, self.alpha(gate)))
        elif gate.any_of:
            self.any_of(gate, candidate)
        else:
            attempt = self.attempt(gate, candidate)
            self.say(self.judge(gate, candidate, attempt, self.alpha(gate, attempt.number if attempt else 0)))

    def ready(self, gate: Gate, candidate: str) -> bool:
        """Say whether every evaluation it needs ended; what was deselected is not waited for, but one must be there."""
        chosen = {i.eval for i in self.plan.items if i.subject == candidate}
        own = {self.gates[g].eval for g in gate.any_of} if gate.any_of else {gate.eval}
        needed = {e for e in self.plan.evals(gate) if e in chosen}
        return bool(own & chosen) and all((candidate, e) in self.ended for e in needed)

    def unmet(self, gate: Gate, candidate: str) -> str:
        """Say which required gate did not pass, or nothing."""
        for name in gate.requires:
            verdict = self.said.get((candidate, name))
            if verdict is None or verdict.outcome is not Outcome.PASS:
                state = verdict.outcome if verdict else "not judged"
                return f'requires "{name}", which is {state} on {candidate}'
        return ""

    def any_of(self, gate: Gate, candidate: str) -> None:
        """Judge the members at the group's risk together: Holm over their p-values, one proven claim is enough."""
        asked = [self.plan.named(self.gates[name], candidate) for name in gate.any_of]
        attempts = [self.attempt(member, candidate) for member in asked]
        latest = max((a.number for a in attempts if a), default=0)
        alpha = self.alpha(gate, latest)
        members = []
        for member, attempt in zip(asked, attempts, strict=True):
            if unmet := self.unmet(member, candidate):
                members.append(unjudged(member, candidate, unmet, alpha))
            else:
                members.append(self.judge(member, candidate, attempt, alpha))
        adjusted = holm([1.0 if v.p_pass is None else v.p_pass for v in members])
        for verdict, p in zip(members, adjusted, strict=True):
            if verdict.outcome is Outcome.PASS and p > alpha:
                why = f"{verdict.why}; one of {len(members)} claims, p = {p:.2g} by Holm"
                self.say(replace(verdict, outcome=Outcome.INCONCLUSIVE, why=why))
            else:
                self.say(verdict)
        said = [self.said[candidate, name] for name in gate.any_of]
        self.say(replace(_group(unjudged(gate, candidate, "", alpha), said, min(adjusted)), attempt=latest))

    def attempt(self, gate: Gate, candidate: str, result: Result | None = None) -> Attempt | None:
        """Return which attempt it is, where attempts are counted and there is something to judge."""
        ours = result or self.results.get((candidate, gate.eval))
        if self.ledger is None or ours is None:
            return None
        theirs = self.results.get((gate.versus, gate.eval)) if gate.versus else None
        return self.ledger.attempt(self.plan.suite, gate, self.plan.tasks[gate.eval].spec, ours, theirs)

    def judge(self, gate: Gate, candidate: str, attempt: Attempt | None, alpha: float) -> Verdict:
        """Judge one gate by itself, and write down that it was judged."""
        verdict = self.verdict(gate, candidate, alpha)
        if attempt is None or self.ledger is None or verdict.outcome is Outcome.ERROR or verdict.method == "point":
            return verdict
        self.ledger.record(attempt, self.plan.suite, verdict)
        why = verdict.why + (f"; attempt {attempt.number}" if attempt.number > 1 else "")
        return replace(verdict, attempt=attempt.number, why=why)

    def decided(self, item: Item, result: Result) -> bool:
        """Say whether every gate on an evaluation could be decided on the rows that a candidate came to so far."""
        gates = [g for g in self.plan.gates(item.subject) if g.eval == item.eval]
        verdicts = []
        for gate in gates:
            attempt = self.attempt(gate, item.subject, result)
            alpha = self.alpha(gate, attempt.number if attempt else 0)
            verdicts.append(self.verdict(gate, item.subject, alpha, result))
        return all(v.outcome in (Outcome.PASS, Outcome.FAIL) for v in verdicts)

    def verdict(self, gate: Gate, candidate: str, alpha: float, result: Result | None = None) -> Verdict:
        if gate.versus and gate.versus in self.lacking:
            return unjudged(gate, candidate, self.lacking[gate.versus], alpha)
        task, about = self.plan.tasks[gate.eval], self.plan.suite.about
        baseline = self.results.get((gate.versus, gate.eval)) if gate.versus else None
        samples = task.samples or ()
        ask = partial(
            judge,
            gate,
            task.metrics.get(gate.metric_name),
            result or self.results.get((candidate, gate.eval)),
            baseline,
            samples,
            alpha,
            name=candidate,
            seed=about.seed,
            columns=task.spec.slices,
        )
        if not gate.clean_only:
            return ask()
        return clean.judged(gate, samples, self.leaks, lambda w: ask(without=w), name=candidate, alpha=alpha)

    def alpha(self, gate: Gate, attempt: int = 0) -> float:
        about = self.plan.suite.about
        alpha = gate.alpha or about.alpha
        return spent(alpha, attempt) if attempt and about.attempts == "spend" else alpha

    def say(self, verdict: Verdict) -> None:
        gate = self.gates[verdict.gate]
        verdict = replace(verdict, decides=self.plan.decides(gate, verdict.candidate))
        if verdict.blocking and verdict.outcome is not Outcome.PASS:
            waiver = in_force(self.waivers, gate, self.today)
            void = [w.void(gate, self.today) for w in self.waivers if w.gate == gate.id and not waiver]
            why = verdict.why + (f"; its waiver {void[-1]}" if void else "")
            verdict = replace(verdict, waiver=waiver, why=why)
        self.said[verdict.candidate, verdict.gate] = verdict


def _group(blank: Verdict, members: list[Verdict], p: float) -> Verdict:
    """Conclude from the members: one proven is a PASS, all refuted a FAIL; one that is missing is an ERROR then."""
    outcomes = [v.outcome for v in members]
    if Outcome.PASS in outcomes:
        outcome = Outcome.PASS
    elif Outcome.ERROR in outcomes:
        outcome = Outcome.ERROR
    else:
        outcome = Outcome.FAIL if set(outcomes) == {Outcome.FAIL} else Outcome.INCONCLUSIVE
    proven = [f'"{v.gate}"' for v in members if v.outcome is Outcome.PASS]
    why = f"{' and '.join(proven) or 'none'} of {len(members)} proven, p = {p:.2g} by Holm"
    if outcome is Outcome.ERROR:
        why += next(f'; "{v.gate}" is ERROR: {v.why}' for v in members if v.outcome is Outcome.ERROR)
    digest = next((v.digest for v in members if v.digest), "")
    refuted = [1.0 if v.p_fail is None else v.p_fail for v in members]
    said = replace(blank, outcome=outcome, why=why, method="Holm", digest=digest)
    return replace(said, p_pass=p, p_fail=max(refuted), n=max(v.n for v in members))
