"""Attempts, identified by a candidate's content and its blocking claims.

Evaluations with overlapping rows ask the same questions. All blocking gates on them must pass, so together they are one
attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from harness.artifacts.digests import digest_value
from harness.collection.collection import Collection
from harness.gates.attempts import role_of_candidate
from harness.pipeline.ledger import LedgerEntry, counts_as_attempt, overlaps, project_name, scores_by_row
from harness.records.claims.gate import DERIVED_FIELDS, Gate
from harness.records.samples import Result

# keys that claim nothing
NEUTRAL_KEYS = ("id", "metric", "on", "requires", "severity", *DERIVED_FIELDS)
OF_EVAL = ("use", "template", "cluster", "rows_at_most", "against", "fewshot_data", "chat_template_kwargs", "stop")


@dataclass(frozen=True)
class Claimed:
    """Digests of a candidate's claims and evaluation settings on some questions.

    `measure` tells this evaluation from others on the same questions.
    """

    claims: str
    settings: str
    measure: str


@dataclass(frozen=True)
class AttemptClaims:
    """The blocking claims of a collection, grouped by overlapping rows."""

    collection: Collection

    @cached_property
    def entries(self) -> Mapping[str, LedgerEntry]:
        """The rows of each evaluation, as a look without a candidate."""
        tasks = self.collection.tasks.items()
        return {name: LedgerEntry("merged", "", frozenset(filter(None, task.keys))) for name, task in tasks}

    @cached_property
    def overlapping_evals(self) -> Mapping[str, frozenset[str]]:
        """The evaluations with overlapping rows for each, itself included. Overlap is transitive here."""
        found = {name: {name} for name in self.entries}
        for name, look in self.entries.items():
            for other in (o for o in self.entries if o < name and found[o] is not found[name]):
                if overlaps(self.entries[other].rows, look.rows):
                    found[other] |= found[name]
                    for one in found[name]:
                        found[one] = found[other]
        return {name: frozenset(group) for name, group in found.items()}

    def claims_of(self, candidate: str, name: str) -> Claimed:
        """Return a candidate's claims on the questions of an evaluation."""
        peers = self.overlapping_evals[name]
        gates = [g for g in self.collection.gates(candidate) if g.blocking and g.eval in peers]
        said = sorted(digest_value(list(self._iterate_claim_parts(gate))) for gate in gates)
        about = {"claims": said, "seed": self.collection.suite.header.seed}
        settings = sorted(digest_value(self._make_eval_settings_key(peer)) for peer in peers)
        measure = digest_value(self._make_eval_settings_key(name))
        return Claimed(digest_value(about), digest_value(settings), measure)

    def _iterate_claim_parts(self, gate: Gate) -> Iterator[Any]:
        """Yield the parts of a gate's claim, independent of names."""
        spec = self.collection.tasks[gate.eval].spec
        yield gate.metric_name
        yield {key: value for key, value in asdict(gate).items() if key not in NEUTRAL_KEYS}
        train = self.collection.suite.train
        yield train.seeds if train and gate.of == "recipe" else None  # one seed more is another claim
        yield gate.alpha or self.collection.suite.header.alpha
        yield {key: getattr(spec, key) for key in OF_EVAL}
        # rows that are still to come are known by how many there will be
        yield self.entries[gate.eval].digest if spec.rows_at_most is None else spec.rows_at_most
        baseline = self.collection.suite.subjects.get(gate.versus or "")
        yield None if baseline is None else {k: v for k, v in asdict(baseline).items() if k != "where"}

    def _make_eval_settings_key(self, name: str) -> Any:
        """Return an evaluation's rows and settings, without its name."""
        spec = self.collection.tasks[name].spec
        return [self.entries[name].digest, {key: getattr(spec, key) for key in OF_EVAL}, dict(spec.options)]


def make_attempt(
    claims: AttemptClaims, candidate: str, name: str, weights: str, base: str, result: Result | None
) -> LedgerEntry:
    """Make the ledger entry of a candidate's evaluation. Without a result it has no scores."""
    suite, task = claims.collection.suite, claims.collection.tasks[name]
    scores = scores_by_row(task, result) if result else {}
    role = role_of_candidate(candidate, is_copy=candidate in suite.copies)
    project = project_name(suite.path) if task.brings_rows else ""
    about: dict[str, Any] = {"scores": scores, "base": base, "project": project, "most": task.spec.rows_at_most}
    return replace(
        claims.entries[name], role=role, weights=weights, **about, **asdict(claims.claims_of(candidate, name))
    )


def list_claimed_attempts(claims: AttemptClaims) -> dict[str, dict[str, dict[str, str]]]:
    """Return what each candidate's evaluation claims on which questions, where it counts as an attempt."""
    counted = {name for name, task in claims.collection.tasks.items() if counts_as_attempt(task)}
    return {
        candidate: {
            name: {"rows": claims.entries[name].digest, "claims": claims.claims_of(candidate, name).claims}
            for name in sorted(claims.collection.evals_by_subject[candidate])
            if name in counted
        }
        for candidate in claims.collection.candidates
    }
