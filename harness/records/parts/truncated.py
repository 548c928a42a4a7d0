"""`cut_at_most`: the gate is undecided where more than a share of either side's answers is truncated.

Without the key only answers that end while reasoning count, since they are never answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.outcomes import Outcome
from harness.records.parts.part import Condition, EvalFacts, Part, SideScores, Slot, format_example_ids

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms, Gate
    from harness.records.metrics import Metric
    from harness.records.samples import Score

MAX_TRUNCATED_REASONING = 0.05  # of all answers, where the gate says nothing of truncated ones


@dataclass(frozen=True)
class TruncationKeys:
    """The keys of the condition."""

    cut_at_most: float | None = None  # the share of answers, of either side, beyond which cut ones keep it undecided


@dataclass(frozen=True)
class TruncatedAnswers(Part):
    """Too many answers of a subject are truncated: more than the share `most`.

    `among` of its `losses` are among them. With `unknown` answers it cannot be told.
    """

    critical: bool = field(default=True, init=False)
    subject: str = ""
    truncated: int = 0
    of: int = 0
    most: float = 0.0
    while_reasoning: bool = False
    losses: int = 0
    among: int = 0
    unknown: tuple[str, ...] = ()

    name = "truncated"
    slot = Slot.HEADLINE
    of_result = False

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        if self.unknown:
            examples = format_example_ids(self.unknown)
            return (
                f"{self.subject}: the finish reason of {len(self.unknown)} of {self.of} answers is unknown, {examples}"
            )
        when = " while reasoning" if self.while_reasoning else ""
        text = f"{self.subject}: {self.truncated} of {self.of} answers were truncated{when}"
        text += f", more than the allowed share of {self.most:g}"
        text += f"; {self.among} of its {self.losses} losses are among them" if self.losses else ""
        return f"{text}; raise max_new_tokens"

    def apply(self, outcome: Outcome) -> Outcome:
        return Outcome.INCONCLUSIVE


class TruncationLimit(Condition):
    """At most a share of the answers is truncated."""

    keys = TruncationKeys
    stricter: Mapping[str, int] = {"cut_at_most": -1}
    needs_finish_reasons = True

    def is_set(self, gate: Gate) -> bool:
        return gate.cut_at_most is not None

    def find_mistakes(self, gate: Gate) -> Iterator[str]:
        if gate.cut_at_most is not None and not 0 <= gate.cut_at_most <= 1:
            yield f"cut_at_most is {gate.cut_at_most:g}; it must be a share of answers from 0 to 1"

    def find_eval_mistakes(self, gate: Gate, facts: EvalFacts) -> Iterator[str]:
        if gate.cut_at_most is not None and not facts.generates:
            yield f'cut_at_most: "{facts.use}" generates no answers that could be truncated; remove it'

    def phrase(self, gate: Gate) -> str:
        return "" if gate.cut_at_most is None else f", at most {gate.cut_at_most:g} of the answers truncated"

    def implies(self, gate: Gate, claim: Gate) -> bool:
        if claim.cut_at_most is None:
            return True
        return gate.cut_at_most is not None and gate.cut_at_most <= claim.cut_at_most

    def forecast_note(self, gate: Gate) -> str:
        if gate.cut_at_most is None:
            return ""
        return f"computed as if at most {gate.cut_at_most:g} of the answers were truncated"

    def find_obstacle(self, gate: Gate, rows: SideScores) -> TruncatedAnswers | None:
        most = MAX_TRUNCATED_REASONING if gate.cut_at_most is None else gate.cut_at_most
        for subject, scores in rows.sides.items():
            answers = [(s.id, answer) for s in rows.rows for answer in scores[s.id].answers]
            if gate.cut_at_most is None:
                truncated = [i for i, answer in answers if answer.values.get("thought_cut") == 1]
            else:
                truncated = [i for i, answer in answers if answer.is_cut]
                if unknown := tuple(i for i, answer in answers if not answer.finish_reason):
                    return TruncatedAnswers(subject, of=len(answers), unknown=unknown)
            if len(truncated) > most * len(answers):
                others = next((scores for name, scores in rows.sides.items() if name != subject), {})
                ids = [s.id for s in rows.rows if s.id in others]
                lost = [i for i in ids if _is_worse(rows.metric, scores[i], others[i])]
                return TruncatedAnswers(
                    subject,
                    len(truncated),
                    len(answers),
                    most,
                    while_reasoning=gate.cut_at_most is None,
                    losses=len(lost),
                    among=len({*truncated}.intersection(lost)),
                )
        return None


def _is_worse(metric: Metric, score: Score, other: Score) -> bool:
    """Return whether a row's value is worse. An unknown value is not."""
    value, baseline = (side.values.get(metric.name, math.nan) for side in (score, other))
    return value < baseline if metric.better == "higher" else value > baseline
