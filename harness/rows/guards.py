"""The tasks of a run beside its mean: guards, of which one fails only where Holm refutes its claim among all.

The mean is what blocks. Of equal models nearly every run of many tasks has one that looks worse, so that a guard which
is not refuted blocks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.gates.gate import Gate
from harness.records.claim_spec import Note
from harness.records.verdict_text import add_reason
from harness.records.verdicts import Outcome, Verdict
from harness.rows.gating import MeasuredRows
from harness.rows.readers.fields import TASK
from harness.stats.multiple_testing import adjust_holm
from harness.texts.numbers import format_p_in_sentence


def add_guards(gates: Sequence[Gate], measured: Mapping[str, MeasuredRows]) -> tuple[Gate, ...]:
    """Return the gates with a guard for each task of a run, behind each gate on the mean of several tasks."""
    own = [gate for gate in gates if not is_guard(gate, measured)]
    found = list[Gate]()
    for gate in own:
        found.append(gate)
        tasks = measured[gate.eval].runs["candidate"].tasks if gate.eval in measured else ()
        if gate.blocking and gate.versus and not gate.slice and not gate.any_of:
            guard = replace(gate, severity="warn", min_n=2, requires=[])
            if gate.better_by is not None:  # on the mean; a task must not be worse
                guard = replace(guard, better_by=None, worse_by_at_most=0.0)
            found += [replace(guard, id=_name_guard(gate.id, task), slice=f"{TASK}={task}") for task in tasks]
    return tuple(found)


def is_guard(gate: Gate, measured: Mapping[str, MeasuredRows]) -> bool:
    """Return whether a gate is the guard of a task."""
    tasks = measured[gate.eval].runs["candidate"].tasks if gate.eval in measured else ()
    task = gate.slice.partition("=")[2] if isinstance(gate.slice, str) else ""
    return task in tasks and gate.severity == "warn" and gate.id.endswith(_name_guard("", task))


def _name_guard(gate: str, task: str) -> str:
    return f"{gate} on {task}"


def decide_guards(
    verdicts: Sequence[Verdict], gates: Sequence[Gate], measured: Mapping[str, MeasuredRows]
) -> list[Verdict]:
    """Return the verdicts, of which a guard is a FAIL that blocks where Holm refutes it, and else blocks nothing."""
    guards = {gate.id: gate for gate in gates if is_guard(gate, measured)}
    decided: dict[str, Verdict] = {}
    for family in {
        (g.metric, g.id.removesuffix(_name_guard("", g.slices[0].partition("=")[2]))) for g in guards.values()
    }:
        own = [v for v in verdicts if v.gate in guards and v.metric == family[0] and v.gate.startswith(family[1])]
        adjusted = adjust_holm([1.0 if v.p_fail is None else v.p_fail for v in own])
        decided |= {v.gate: _apply_holm_to_guard(v, p, len(own)) for v, p in zip(own, adjusted, strict=True)}
    return [decided.get(v.gate, v) for v in verdicts]


def _apply_holm_to_guard(verdict: Verdict, p: float, count: int) -> Verdict:
    refuted = verdict.alpha is not None and p <= verdict.alpha
    outcome = Outcome.FAIL if refuted else verdict.outcome
    if outcome is Outcome.FAIL and not refuted:
        outcome = Outcome.INCONCLUSIVE
    how = f"refuted among {count} tasks" if refuted else f"not refuted among {count} tasks, so it blocks nothing"
    text = f"{how} (Holm, {format_p_in_sentence(p)})"
    return add_reason(replace(verdict, outcome=outcome, blocking=refuted), Note("rows", {"text": text}))
