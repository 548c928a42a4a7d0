"""Gates that require others, and what requires gates: an export."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

from harness.errors import did_you_mean
from harness.records.claims.gate import Gate
from harness.records.verdicts import Verdict


def find_order_mistakes(gates: Sequence[Gate], candidates: Sequence[str]) -> list[tuple[Gate, str]]:
    """Return mistakes in how gates refer to each other.

    These are unknown ids, cycles, and gates that are not on every candidate of the gate that names them.
    """
    by_id = {g.id: g for g in gates}
    mistakes = []
    for gate in gates:
        for name in gate.requires:
            if name not in by_id:
                mistake = f'requires names "{name}", which is not a gate{did_you_mean(name, by_id)}'
                mistakes.append((gate, f"{mistake}; list ids of gates only"))
            elif lacking := [c for c in candidates if gate.applies_to(c) and not by_id[name].applies_to(c)]:
                what = f'requires names "{name}", which is not evaluated on {lacking[0]}'
                mistakes.append((gate, f'{what}; check its "on"'))
    if any("which is not a gate" in mistake for _, mistake in mistakes):
        return mistakes
    order = TopologicalSorter[str](dict.fromkeys(by_id, ()))
    for gate in by_id.values():
        for name in gate.requires:
            order.add(name, gate.id)  # the other way round: a circle is told from who waits to what is waited for
    try:
        order.prepare()
    except CycleError as error:
        circle = error.args[1]  # first and last the same
        mistakes.append((by_id[circle[0]], "requires form a cycle: " + " -> ".join(circle)))
    return mistakes


def find_export_obstacles(verdicts: Iterable[Verdict], gates: Sequence[Gate], candidate: str) -> list[str]:
    """Return why a candidate may not ship: a line per blocking gate that neither passed nor is waived.

    Empty when it may. A waiver covers a verdict, not the lack of one.
    """
    said = {v.gate: v for v in verdicts if v.candidate == candidate}
    if not (wanted := [g for g in gates if g.blocking and g.applies_to(candidate)]):
        return [f"no blocking gate is on {candidate}"]
    reasons = []
    for gate in wanted:
        if (verdict := said.get(gate.id)) is None:
            reasons.append(f'gate "{gate.id}" has no verdict on {candidate}')
        elif verdict.blocks_release:
            reasons.append(f'gate "{gate.id}" is {verdict.outcome} on {candidate}: {verdict.why}')
    return reasons
