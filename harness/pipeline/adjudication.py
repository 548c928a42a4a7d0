"""Gates that wait for others, by `requires`. A verdict comes as soon as all it waits for is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from harness.collection.collection import Collection, Item
from harness.gates import contamination
from harness.gates.attempts import AttemptNumber, LedgerExtract, derive_attempt
from harness.gates.context import (
    EvalContext,
    GateContext,
    GateRows,
    decide_in_context,
    make_context,
)
from harness.gates.waivers import GateWaivers, describe_claim
from harness.pipeline.attempt import AttemptClaims, make_attempt
from harness.pipeline.ledger import Ledger, LedgerEntry, counts_as_attempt
from harness.records.claims.gate import Gate
from harness.records.samples import Result
from harness.records.verdicts import Outcome, Verdict
from harness.records.waivers import Waiver
from harness.suite.waivers import claim_digest


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
        # By candidate and eval: the attempts that are in the ledger, and what of it they follow from.
        self.standings: dict[tuple[str, str], AttemptNumber] = {}
        self.extracts: dict[tuple[str, str], LedgerExtract] = {}
        self.provisional_attempts: dict[tuple[str, str], AttemptNumber] = {}  # of evaluations that may stop early

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
                line = self.ledger.record(self.ledger.number_attempt(look), look, self.collection.suite, *key)
                self.extracts[key] = self.ledger.extract(look, line)
            self.standings[key] = derive_attempt(self.extracts[key], self.base)
        for gate in self.collection.gates(candidate, item.eval):
            self.decide_if_ready(gate, candidate)
        return self.verdicts[before:]

    def describe_ledger(self, candidate: str) -> dict[str, Any] | None:
        """Return the ledger as evidence has it: its state, and the lines that a candidate's attempts follow from."""
        if self.ledger is None:
            return None
        extracts = {name: extract for (owner, name), extract in self.extracts.items() if owner == candidate}
        looks = {line["id"]: line for extract in extracts.values() for line in extract.lines}
        attempts = {name: {"line": extract.line, "near": list(extract.near)} for name, extract in extracts.items()}
        ordered = [line for line in self.ledger.read_entries() if line["id"] in looks]
        return {**self.ledger.state().to_json(), "attempts": attempts, "looks": ordered}

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
        self.said[candidate, gate.id] = self.decide_gate(gate, candidate)

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
        suite, spec, key = self.collection.suite, self.collection.tasks[gate.eval].spec, (candidate, gate.eval)
        return make_context(
            gate,
            candidate,
            suite.header,
            EvalContext(spec.slices, spec.rows_at_most),
            self.standings.get(key) or self.provisional_attempts.get(key),
            {decided: str(v.outcome) for (name, decided), v in self.said.items() if name == candidate},
            self.waivers_of(self.gates[gate.id]),
            obstacle=self.lacking.get(gate.versus or "", "") or obstacle,
            leaks=self.leaks,
            decides=self.collection.is_decisive(gate, candidate),
        )

    def waivers_of(self, gate: Gate) -> GateWaivers | None:
        """Return what a waiver of a gate is compared with, if there are waivers."""
        if not self.waivers:
            return None
        digest = claim_digest(gate, self.collection.suite)
        return GateWaivers(self.waivers, describe_claim(gate), digest, self.today)

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
