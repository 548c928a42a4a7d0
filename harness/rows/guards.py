"""The tasks of a run beside its mean: guards, of which one fails only where Holm refutes its claim among all.

The mean is what blocks. Of equal models nearly every run of many tasks has one that looks worse, so that a guard which
is not refuted blocks nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from harness.records.claims.gate import Gate
from harness.records.parts.guarded import GuardedTask
from harness.records.verdict_text import complete
from harness.records.verdicts import Verdict
from harness.rows.gating import MeasuredRows
from harness.rows.readers.fields import TASK
from harness.stats.multiple_testing import adjust_holm


def add_guards(gates: Sequence[Gate], measured: Mapping[str, MeasuredRows]) -> tuple[Gate, ...]:
    """Add a guard per task behind each gate on their mean.

    Only blocking gates against a baseline, without slice get guards.
    """
    own = [gate for gate in gates if not gate.guards]
    found, ids = list[Gate](), {gate.id for gate in own}
    for gate in own:
        found.append(gate)
        tasks = measured[gate.eval].runs["candidate"].tasks if gate.eval in measured else ()
        if gate.blocking and gate.versus and not gate.slice:
            guard = replace(gate, severity="warn", min_n=2, requires=[], guards=gate.id)
            if gate.better_by is not None:  # on the mean; a task must not be worse
                guard = replace(guard, better_by=None, worse_by_at_most=0.0)
            for task in tasks:
                name = _name_guard(gate.id, task, ids)
                ids.add(name)
                found.append(replace(guard, id=name, slice=f"{TASK}={task}"))
    return tuple(found)


def _name_guard(gate: str, task: str, taken: Collection[str]) -> str:
    """Return an id that no other gate has."""
    name = f"{gate} on {task}"
    while name in taken:
        name += " (guard)"
    return name


def decide_guards(verdicts: Sequence[Verdict], gates: Sequence[Gate]) -> list[Verdict]:
    """Decide the guards of each gate together.

    A guard fails and blocks if Holm refutes it, else it blocks nothing.
    """
    guarded = {gate.id: gate.guards for gate in gates if gate.guards}
    decided: dict[str, Verdict] = {}
    for name in dict.fromkeys(guarded.values()):
        own = [v for v in verdicts if guarded.get(v.gate) == name]
        adjusted = adjust_holm([1.0 if v.p_fail is None else v.p_fail for v in own])
        decided |= {v.gate: _apply_holm_to_guard(v, p, len(own)) for v, p in zip(own, adjusted, strict=True)}
    return [decided.get(v.gate, v) for v in verdicts]


def _apply_holm_to_guard(verdict: Verdict, p: float, count: int) -> Verdict:
    refuted = verdict.alpha is not None and p <= verdict.alpha
    return complete(replace(verdict, blocking=refuted), GuardedTask(count, p, refuted))
