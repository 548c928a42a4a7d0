"""Gates that wait for others: `requires` and `any_of`. A verdict comes as soon as all it waits for is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

from harness.collection.plan import Item, Plan
from harness.gates import contamination
from harness.gates.decide import judge
from harness.gates.eligibility import unjudged
from harness.pipeline.attempts import Attempt, Ledger, question_of, seen_of
from harness.pipeline.looks import Look, keys_of, look_of, risked, role_of, scores_digest
from harness.records.gates import Gate, Outcome, Verdict
from harness.records.samples import Result
from harness.records.waivers import Waiver
from harness.stats.tests import holm
from harness.suite.waivers import in_force, waiver_error


class Adjudicator:
    """The verdicts of a run, candidate by candidate, as its evaluations end; what ships is decided by these alone.

    `lacking` are the baselines that are not there, and why. Without a `ledger` no attempt is counted.
    """

    def __init__(
        self,
        plan: Plan,
        waivers: Sequence[Waiver],
        today: date,
        lacking: Mapping[str, str],
        ledger: Ledger | None,
    ) -> None:
        self.plan = plan
        self.waivers, self.today = waivers, today
        self.lacking, self.ledger = lacking, ledger
        self.gates = {g.id: g for g in plan.suite.gates}
        self.results: dict[tuple[str, str], Result] = {}  # by subject and eval
        self.ended: set[tuple[str, str]] = set()
        self.said: dict[tuple[str, str], Verdict] = {}
        self.leaks: contamination.Leaks | None = None  # rows by evaluation; None as long as nobody looked
        self.keys: dict[str, dict[str, frozenset[str]]] = {}  # candidate -> eval -> keys of its rows
        self.scores: dict[tuple[str, str], str] = {}  # digests by candidate and eval
        self.attempts: dict[str, Attempt] = {}  # of candidates, once they are in the ledger
        self.numbers: dict[str, int] = {}  # of the attempt that a candidate is judged as
        self.guesses: dict[tuple[str, str], int] = {}  # the same, of evaluations that may stop early

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts that were given, in their order: what may ship is read from these alone."""
        return tuple(self.said.values())

    def leave_out(self, leaks: contamination.Leaks | None) -> None:
        """Take note of the rows that leak; None where the check could not look."""
        self.leaks = leaks

    def take(self, item: Item, result: Result) -> None:
        """Take the result of an evaluation, which `after` judges."""
        self.results[item.subject, item.eval] = result

    def after(self, item: Item) -> tuple[Verdict, ...]:
        """Return the verdicts that can be given now that an evaluation of a candidate ended, well or not."""
        self.ended.add((item.subject, item.eval))
        if item.subject not in self.plan.candidates:
            return ()
        before = set(self.said)
        if self.ledger is None:
            self.settle(item.subject)
        else:
            look = self.look(item.subject)  # takes long where rows are many, so nobody waits for it
            with self.ledger.locked():
                self.count(self.ledger, item.subject, look)
        return tuple(v for key, v in self.said.items() if key not in before)

    def settle(self, candidate: str) -> None:
        """Give every verdict on a candidate that can be given."""
        for gate in self.plan.gates(candidate):
            self.give(gate, candidate)

    def count(self, ledger: Ledger, candidate: str, look: Look | None) -> None:
        """Settle a candidate as the attempt it is, and write that down; not before it is sure which one."""
        if look is None:
            return self.settle(candidate)
        attempt = self.attempts.get(candidate) or ledger.attempt(look, partial(self.old, candidate))
        if not attempt.sure:
            return None
        self.numbers[candidate] = attempt.number
        self.settle(candidate)
        if any(v.attempt for (name, _), v in self.said.items() if name == candidate):
            ledger.record(attempt, look, self.plan.suite, candidate)
            self.attempts[candidate] = attempt
        return None

    def look(self, candidate: str, weights: str = "") -> Look | None:
        """Return what is known of a candidate so far; None where nothing was scored that a gate takes a risk on."""
        if candidate not in self.keys:
            samples = {n: self.plan.tasks[n].samples or () for n in risked(self.plan, candidate)}
            self.keys[candidate] = {n: keys_of(rows) for n, rows in samples.items()}
        keys = self.keys[candidate]
        there = {name: self.results[candidate, name] for name in keys if (candidate, name) in self.results}
        if not (there or weights):
            return None
        for name, result in there.items():
            if (candidate, name) not in self.scores:
                self.scores[candidate, name] = scores_digest(self.plan.tasks[name], result)
        scores = {name: self.scores[candidate, name] for name in there}
        weights = weights or next(iter(there.values())).digest
        whole = all((candidate, name) in self.ended for name in keys)
        return look_of(role_of(self.plan, candidate), weights, keys, scores, whole)

    def old(self, candidate: str) -> list[tuple[str, str]]:
        """Return the questions that a candidate's gates put, and what was seen if it is known, by the old keys."""
        found = []
        for gate in (g for g in self.plan.gates(candidate) if g.eval in self.keys[candidate]):
            ours, task = self.results.get((candidate, gate.eval)), self.plan.tasks[gate.eval]
            theirs = self.results.get((gate.versus, gate.eval)) if gate.versus else None
            question = question_of(self.plan.suite, gate, task.spec, task.samples or (), candidate)
            found.append((question, seen_of(ours, theirs, gate.metric_name) if ours else ""))
        return found

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
        alpha = self.alpha(gate, self.numbers.get(candidate, 0))
        if unmet := self.unmet(gate, candidate):
            self.say(unjudged(gate, candidate, unmet, alpha))
        elif gate.any_of:
            self.any_of(gate, candidate, alpha)
        else:
            self.say(self.judge(gate, candidate, alpha))

    def ready(self, gate: Gate, candidate: str) -> bool:
        """Return whether all evaluations it needs ended; no deselected one is waited for, but one must be there."""
        chosen = {i.eval for i in self.plan.items if i.subject == candidate}
        own = {self.gates[g].eval for g in gate.any_of} if gate.any_of else {gate.eval}
        needed = {e for e in self.plan.evals(gate) if e in chosen}
        return bool(own & chosen) and all((candidate, e) in self.ended for e in needed)

    def unmet(self, gate: Gate, candidate: str) -> str:
        """Return which required gate did not pass, or an empty text."""
        for name in gate.requires:
            verdict = self.said.get((candidate, name))
            if verdict is None or verdict.outcome is not Outcome.PASS:
                state = verdict.outcome if verdict else "not judged"
                return f'requires "{name}", which is {state} on {candidate}'
        return ""

    def any_of(self, gate: Gate, candidate: str, alpha: float) -> None:
        """Judge the members at the group's risk together: Holm over their p-values, one proven claim is enough."""
        asked = [self.plan.named(self.gates[name], candidate) for name in gate.any_of]
        members = []
        for member in asked:
            if unmet := self.unmet(member, candidate):
                members.append(unjudged(member, candidate, unmet, alpha))
            else:
                members.append(self.judge(member, candidate, alpha))
        adjusted = holm([1.0 if v.p_pass is None else v.p_pass for v in members])
        for verdict, p in zip(members, adjusted, strict=True):
            if verdict.outcome is Outcome.PASS and p > alpha:
                why = f"{verdict.why}; one of {len(members)} claims, p = {p:.2g} by Holm"
                self.say(replace(verdict, outcome=Outcome.INCONCLUSIVE, why=why))
            else:
                self.say(verdict)
        said = [self.said[candidate, name] for name in gate.any_of]
        attempt = max(v.attempt for v in said)
        self.say(replace(_group(unjudged(gate, candidate, "", alpha), said, min(adjusted)), attempt=attempt))

    def judge(self, gate: Gate, candidate: str, alpha: float) -> Verdict:
        """Judge one gate by itself; an error looked at no number, and a budget takes no risk."""
        verdict, number = self.verdict(gate, candidate, alpha), self.numbers.get(candidate, 0)
        if not number or verdict.outcome is Outcome.ERROR or verdict.method == "point":
            return verdict
        return replace(verdict, attempt=number, why=verdict.why + (f"; attempt {number}" if number > 1 else ""))

    def decided(self, item: Item, result: Result) -> bool:
        """Return whether every gate on an evaluation could be decided on the rows that a candidate came to so far."""
        gates = [g for g in self.plan.gates(item.subject) if g.eval == item.eval]
        number = self.presumed(item, result.digest)
        verdicts = [self.verdict(g, item.subject, self.alpha(g, number), result) for g in gates]
        return all(v.outcome in (Outcome.PASS, Outcome.FAIL) for v in verdicts)

    def presumed(self, item: Item, weights: str) -> int:
        """Return the attempt that a candidate is in the middle of an evaluation; the ledger is asked once for each."""
        key = item.subject, item.eval
        if self.ledger and key not in self.guesses:
            look = self.look(item.subject, weights)
            with self.ledger.locked():
                attempt = self.ledger.attempt(look, partial(self.old, item.subject)) if look else None
            self.guesses[key] = attempt.number if attempt else 0
        return self.numbers.get(item.subject) or self.guesses.get(key, 0)

    def verdict(self, gate: Gate, candidate: str, alpha: float, result: Result | None = None) -> Verdict:
        if gate.versus and gate.versus in self.lacking:
            return unjudged(gate, candidate, self.lacking[gate.versus], alpha)
        task = self.plan.tasks[gate.eval]
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
            columns=task.spec.slices,
        )
        if not gate.clean_only:
            return ask()
        return contamination.judged(gate, samples, self.leaks, lambda w: ask(without=w), name=candidate, alpha=alpha)

    def alpha(self, gate: Gate, attempt: int) -> float:
        return self.plan.suite.about.risk(attempt, gate.alpha)

    def say(self, verdict: Verdict) -> None:
        gate, suite = self.gates[verdict.gate], self.plan.suite
        verdict = replace(verdict, decides=self.plan.decides(gate, verdict.candidate))
        if verdict.blocking and verdict.outcome is not Outcome.PASS:
            waiver = in_force(self.waivers, gate, suite, self.today)
            void = [waiver_error(w, gate, suite, self.today) for w in self.waivers if w.gate == gate.id and not waiver]
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
