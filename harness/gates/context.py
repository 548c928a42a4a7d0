"""What a verdict follows from besides its rows, and the verdict: the same for a run and for who verifies it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.gates.attempts import AttemptNumber
from harness.gates.contamination import Leaks, decide_without_leaks
from harness.gates.decide import decide
from harness.gates.gate_input import error_verdict
from harness.gates.waivers import GateWaivers
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.parts.attempts import CountedAttempt, InterimLooks
from harness.records.parts.part import Part
from harness.records.samples import Result, Sample
from harness.records.suite_header import SuiteTable
from harness.records.verdict_text import complete
from harness.records.verdicts import Outcome, Verdict
from harness.stats.multiple_testing import attempt_alpha, interim_levels


@dataclass(frozen=True)
class GateRows:
    """The rows that a gate is about, of the candidate and of the baseline if it has one."""

    metric: Metric | None
    candidate: Result | None
    baseline: Result | None
    samples: Sequence[Sample]


@dataclass(frozen=True)
class GateContext:
    """What a verdict follows from besides its rows.

    It comes from the suite and the ledger of attempts, never from a verdict. `alpha` is the gate's own risk, of which
    an `attempt` may spend a part (0 where attempts are not counted), and an interim analysis after the last of `looks`
    at up to `rows_at_most` rows. `obstacle` says why there is nothing to decide: a gate that it requires did not pass,
    or rows are missing.
    """

    candidate: str
    alpha: float
    attempt: int = 0
    spends: bool = False
    looks: tuple[int, ...] = ()
    rows_at_most: int | None = None
    obstacle: str = ""
    slices: Sequence[str] = ()  # columns of the evaluation
    leaks: Leaks | None = None
    decides: bool = True
    waivers: GateWaivers | None = None

    @property
    def level(self) -> float:
        """The alpha that the gate is tested at. Raises ValueError if the looks are impossible."""
        alpha = attempt_alpha(self.alpha, self.attempt) if self.spends and self.attempt else self.alpha
        if not self.interim_looks:
            return alpha
        return interim_levels(self.looks, self.interim_looks[1], alpha)[-1]

    @property
    def interim_looks(self) -> tuple[tuple[int, ...], int] | None:
        """The looks at up to a declared number of rows, and that number."""
        return (self.looks, self.rows_at_most) if self.looks and self.rows_at_most is not None else None


def make_context(
    gate: Gate,
    candidate: str,
    suite: SuiteTable,
    evaluation: EvalContext,
    attempt: AttemptNumber | None,
    outcomes: Mapping[str, str],
    waivers: GateWaivers | None,
    *,
    obstacle: str = "",
    leaks: Leaks | None = None,
    decides: bool = True,
) -> GateContext:
    """Return what a gate's verdict follows from besides its rows: of a run's suite and ledger, or of an export's.

    `outcomes` are those of the gates on the candidate that were decided before.
    """
    return GateContext(
        candidate,
        gate.alpha or suite.alpha,
        attempt.number if attempt else 0,
        suite.attempts == "spend",
        attempt.stages if attempt else (),
        evaluation.rows_at_most,
        obstacle=describe_unmet_requirement(gate, candidate, outcomes) or obstacle,
        slices=evaluation.slices,
        leaks=leaks,
        decides=decides,
        waivers=waivers,
    )


@dataclass(frozen=True)
class EvalContext:
    """The keys of an eval that its verdicts follow from: its columns, and how many rows it will ever have."""

    slices: Sequence[str] = ()
    rows_at_most: int | None = None


def describe_unmet_requirement(gate: Gate, candidate: str, outcomes: Mapping[str, str]) -> str:
    """Return which gate that a gate requires did not pass, or an empty text."""
    for name in gate.requires:
        if (outcome := outcomes.get(name)) != Outcome.PASS:
            return f'requires "{name}", which is {outcome or "not decided"} on {candidate}'
    return ""


def decide_in_context(gate: Gate, rows: GateRows, context: GateContext) -> Verdict:
    """Decide a gate on a candidate."""
    is_budget = rows.metric is not None and rows.metric.is_count
    alpha = context.alpha if is_budget else context.level  # a budget takes no risk
    verdict = replace(_decide_at(gate, rows, context, alpha), decides=context.decides)
    if verdict.outcome is not Outcome.ERROR and not is_budget:  # neither looked at a number by chance
        verdict = complete(verdict, *_list_attempts(context, alpha))
    return context.waivers.apply(gate, verdict) if context.waivers else verdict


def _list_attempts(context: GateContext, alpha: float) -> list[Part]:
    """Return which attempt a verdict is, and after which looks it was given."""
    if not context.attempt:
        return []
    parts: list[Part] = [CountedAttempt(context.attempt)]
    if context.interim_looks:
        looks, most = context.interim_looks
        parts.append(InterimLooks(tuple(looks), most, alpha))
    return parts


def _decide_at(gate: Gate, rows: GateRows, context: GateContext, alpha: float) -> Verdict:
    if context.obstacle:
        return error_verdict(gate, context.candidate, context.obstacle, alpha)

    def ask(without: Collection[str] = ()) -> Verdict:
        about = {"name": context.candidate, "columns": context.slices}
        return decide(
            gate,
            rows.metric,
            rows.candidate,
            rows.baseline,
            rows.samples,
            alpha,
            without=without,
            **about,  # type: ignore[arg-type]
        )

    if not gate.clean_only:
        return ask()
    return decide_without_leaks(gate, rows.samples, context.leaks, ask, name=context.candidate, alpha=alpha)
