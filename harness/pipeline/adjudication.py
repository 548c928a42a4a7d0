"""Gates that wait for others, by `requires`. A verdict comes as soon as all it waits for is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

from harness.collection.collection import Collection, Item
from harness.gates import contamination
from harness.gates.decide import decide
from harness.gates.gate import Gate
from harness.gates.gate_input import error_verdict
from harness.pipeline.attempt import AttemptClaims, make_attempt
from harness.pipeline.ledger import AttemptNumber, Ledger, LedgerEntry, counts_as_attempt
from harness.records.claim_spec import Note
from harness.records.samples import Result
from harness.records.verdict_text import add_reason
from harness.records.verdicts import Outcome, Verdict
from harness.records.waivers import Waiver
from harness.stats.multiple_testing import interim_levels
from harness.suite.waivers import active_waiver, find_waiver_error


class Adjudicator:
    """The verdicts of a run, given as its evaluations end. They alone decide which candidates ship."""

    def __init__(
        self, collection: Collection, waivers: Sequence[Waiver], today: date, lacking: Mapping[str, str],
        ledger: Ledger | None, base: str = "",
    ) -> None:  # fmt: skip
        self.collection, self.base = collection, base  # the digest of what candidates are made of
        self.claims = AttemptClaims(collection)
        self.waivers, self.today = waivers, today
        self.lacking = lacking  # the baselines that are not there, and why
        self.ledger = ledger  # without one no attempt is counted
        self.gates = {g.id: g for g in collection.suite.gates}
        self.results: dict[tuple[str, str], Result] = {}  # by subject and eval
        self.ended: set[tuple[str, str]] = set()
        self.said: dict[tuple[str, str], Verdict] = {}
        self.lost_runs: dict[str, str] = {}  # runs of a recipe that there are none of, and why
        self.leaks: contamination.Leaks | None = None  # rows by evaluation; None as long as nobody looked
        self.standings: dict[tuple[str, str], AttemptNumber] = {}  # by candidate and eval, once they are in the ledger
        self.provisional_attempts: dict[
            tuple[str, str], AttemptNumber
        ] = {}  # the same, of evaluations that may stop early

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts that were given, in their order: what may ship is read from these alone."""
        return tuple(self.said.values())

    def on_evaluation_end(self, item: Item) -> tuple[Verdict, ...]:
        """Decide the gates that an ended evaluation makes ready.

        The evaluation may have failed. Its attempt is in the ledger before any verdict.
        """
        self.ended.add((item.subject, item.eval))
        candidate = self.collection.recipe if item.subject in self.collection.runs else item.subject
        if candidate not in self.collection.candidates:
            return ()
        before, key = len(self.said), (item.subject, item.eval)
        result, task = self.results.get(key), self.collection.tasks[item.eval]
        own = item.subject == candidate  # an attempt of the recipe is that of the model that ships
        if own and self.ledger is not None and result is not None and counts_as_attempt(task):
            # Which attempt at its rows it is, is written down before anything is said of it.
            look = self.ledger_entry(*key, result)
            with self.ledger.lock():
                self.standings[key] = self.ledger.number_attempt(look)
                self.ledger.record(self.standings[key], look, self.collection.suite, *key)
        for gate in self.collection.gates(candidate, item.eval):
            self.decide_if_ready(gate, candidate)
        return self.verdicts[before:]

    def ledger_entry(self, candidate: str, name: str, result: Result) -> LedgerEntry:
        """Return the ledger entry of an evaluation under the candidate's claims."""
        return make_attempt(self.claims, candidate, name, result.digest, self.base, result)

    def decide_if_ready(self, gate: Gate, candidate: str) -> None:
        """Decide a gate once everything that it needs is evaluated. Gates that it waits for are decided first."""
        if (candidate, gate.id) in self.said:
            return
        chosen = self.collection.evals_by_subject[
            candidate
        ]  # no deselected evaluation is waited for, but one must be there
        if gate.eval not in chosen or not self.ended.issuperset(self.collection.needed_items(gate, candidate)):
            return
        for name in gate.requires:
            self.decide_if_ready(self.collection.resolve_gate(self.gates[name], candidate), candidate)
        self.record_verdict(self.decide_gate(gate, candidate, self.alpha(gate, candidate)))

    def unmet_requirement(self, gate: Gate, candidate: str) -> str:
        """Return which required gate did not pass, or an empty text."""
        for name in gate.requires:
            if (verdict := self.said.get((candidate, name))) is None or verdict.outcome is not Outcome.PASS:
                return f'requires "{name}", which is {verdict.outcome if verdict else "not decided"} on {candidate}'
        return ""

    def decide_gate(self, gate: Gate, candidate: str, alpha: float) -> Verdict:
        """Decide a single gate. It is ERROR if a gate that it requires did not pass."""
        if unmet := self.unmet_requirement(gate, candidate):
            return error_verdict(gate, candidate, unmet, alpha)
        verdict, standing = self.make_verdict(gate, candidate, alpha), self.standings.get((candidate, gate.eval))
        if not standing or verdict.outcome is Outcome.ERROR or verdict.method == "point":
            return verdict  # an error looked at no number, and a budget takes no risk
        number, stages = self.attempt_number(gate, candidate), standing.stages
        notes = [Note("attempt", {"number": number})] if number > 1 else []
        if (most := self.collection.tasks[gate.eval].spec.rows_at_most) is not None:
            notes.append(Note("look", {"number": len(stages), "at": stages[-1], "most": most, "alpha": alpha}))
            verdict = replace(verdict, looks=stages)
        return add_reason(replace(verdict, attempt=number), *notes)

    def is_settled(self, item: Item, result: Result) -> bool:
        """Return whether the rows so far decide every gate of an item."""
        gates = [g for g in self.collection.gates(item.subject, item.eval) if g.eval == item.eval]
        key = item.subject, item.eval
        if (
            self.ledger and key not in self.provisional_attempts
        ):  # which attempt it will be; the ledger is asked once for each
            with self.ledger.lock():
                self.provisional_attempts[key] = self.ledger.number_attempt(
                    make_attempt(self.claims, *key, result.digest, self.base, None)
                )
        verdicts = [self.make_verdict(g, item.subject, self.alpha(g, item.subject), result) for g in gates]
        return all(v.outcome in (Outcome.PASS, Outcome.FAIL) for v in verdicts)

    def attempt_number(self, gate: Gate, candidate: str) -> int:
        """Return which attempt a gate is judged as, 0 if none is counted."""
        key = candidate, gate.eval
        standing = self.standings.get(key) or self.provisional_attempts.get(key)
        return standing.number if standing else 0

    def make_verdict(self, gate: Gate, candidate: str, alpha: float, result: Result | None = None) -> Verdict:
        if gate.versus and gate.versus in self.lacking:
            return error_verdict(gate, candidate, self.lacking[gate.versus], alpha)
        task = self.collection.tasks[gate.eval]
        baseline = self.results.get((gate.versus, gate.eval)) if gate.versus else None
        samples = task.samples or ()
        metric, ours = task.metrics.get(gate.metric_name), result or self.results.get((candidate, gate.eval))
        others = {run: self.results.get((run, gate.eval)) for run in self.collection.runs if gate.of == "recipe"}
        if lacking := next((run for run, found in others.items() if found is None), ""):
            return error_verdict(gate, candidate, self.lost_runs.get(lacking, f"{lacking} was not evaluated"), alpha)
        ours = replace(ours, other_runs=tuple(filter(None, others.values()))) if ours and others else ours
        ask = partial(decide, gate, metric, ours, baseline, samples, alpha, name=candidate, columns=task.spec.slices)
        if not gate.clean_only:
            return ask()
        return contamination.decide_without_leaks(
            gate, samples, self.leaks, lambda w: ask(without=w), name=candidate, alpha=alpha
        )

    def alpha(self, gate: Gate, candidate: str) -> float:
        """Return the level a gate is tested at: of its attempt, and of this look where more rows were declared."""
        alpha = self.collection.suite.header.risk(self.attempt_number(gate, candidate), gate.alpha)
        task, standing = self.collection.tasks.get(gate.eval), self.standings.get((candidate, gate.eval))
        most = task.spec.rows_at_most if task else None
        return alpha if most is None or standing is None else interim_levels(standing.stages, most, alpha)[-1]

    def record_verdict(self, verdict: Verdict) -> None:
        gate, suite = self.gates[verdict.gate], self.collection.suite
        verdict = replace(verdict, decides=self.collection.is_decisive(gate, verdict.candidate))
        if verdict.blocking and verdict.outcome is not Outcome.PASS:
            waiver = active_waiver(self.waivers, gate, suite, self.today)
            void = [
                find_waiver_error(w, gate, suite, self.today) for w in self.waivers if w.gate == gate.id and not waiver
            ]
            verdict = add_reason(
                replace(verdict, waiver=waiver), *([Note("waiver", {"why": void[-1]})] if void else [])
            )
        self.said[verdict.candidate, verdict.gate] = verdict
