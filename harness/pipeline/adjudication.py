"""Gates that wait for others, by `requires`. A verdict comes as soon as all it waits for is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

from harness.collection.collection import Collection, Item
from harness.gates import contamination
from harness.gates.context import GateContext, GateRows, decide_in_context, describe_unmet_requirement
from harness.pipeline.attempt import AttemptClaims, make_attempt
from harness.pipeline.ledger import AttemptNumber, Ledger, LedgerEntry, counts_as_attempt
from harness.records.claims.gate import Gate
from harness.records.parts.waived import VoidWaiver, Waived
from harness.records.samples import Result
from harness.records.verdict_text import complete
from harness.records.verdicts import Outcome, Verdict
from harness.records.waivers import Waiver
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
        self.record_verdict(self.decide_gate(gate, candidate))

    def decide_gate(self, gate: Gate, candidate: str, result: Result | None = None) -> Verdict:
        """Decide a single gate, on other rows of the candidate if given."""
        task, own = self.collection.tasks[gate.eval], result or self.results.get((candidate, gate.eval))
        baseline = self.results.get((gate.versus, gate.eval)) if gate.versus else None
        others = {run: self.results.get((run, gate.eval)) for run in self.collection.runs if gate.of == "recipe"}
        missing = next((run for run, found in others.items() if found is None), "")
        obstacle = self.lost_runs.get(missing, f"{missing} was not evaluated") if missing else ""
        if own and others and not missing:
            own = replace(own, other_runs=tuple(filter(None, others.values())))
        rows = GateRows(task.metrics.get(gate.metric_name), own, baseline, task.samples or ())
        return decide_in_context(gate, rows, self.make_context(gate, candidate, obstacle))

    def make_context(self, gate: Gate, candidate: str, obstacle: str = "") -> GateContext:
        """Return what a gate's verdict follows from besides its rows."""
        header, spec = self.collection.suite.header, self.collection.tasks[gate.eval].spec
        standing = self.standings.get((candidate, gate.eval))
        outcomes = {g: str(v.outcome) for (name, g), v in self.said.items() if name == candidate}
        unmet = describe_unmet_requirement(gate, candidate, outcomes)
        return GateContext(
            candidate, gate.alpha or header.alpha, self.attempt_number(gate, candidate), header.attempts == "spend",
            standing.stages if standing else (), spec.rows_at_most,
            obstacle=unmet or self.lacking.get(gate.versus or "", "") or obstacle, slices=spec.slices,
            leaks=self.leaks, decides=self.collection.is_decisive(gate, candidate),
        )  # fmt: skip

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
        verdicts = [self.decide_gate(replace(g, requires=[]), item.subject, result) for g in gates]
        return all(v.outcome in (Outcome.PASS, Outcome.FAIL) for v in verdicts)

    def attempt_number(self, gate: Gate, candidate: str) -> int:
        """Return which attempt a gate is judged as, 0 if none is counted."""
        key = candidate, gate.eval
        standing = self.standings.get(key) or self.provisional_attempts.get(key)
        return standing.number if standing else 0

    def record_verdict(self, verdict: Verdict) -> None:
        gate, suite = self.gates[verdict.gate], self.collection.suite
        if verdict.blocking and verdict.outcome is not Outcome.PASS:
            waiver = active_waiver(self.waivers, gate, suite, self.today)
            own = [w for w in self.waivers if w.gate == gate.id]
            if waiver:
                verdict = complete(verdict, Waived(waiver))
            elif own:
                verdict = complete(verdict, VoidWaiver(find_waiver_error(own[-1], gate, suite, self.today)))
        self.said[verdict.candidate, verdict.gate] = verdict
