"""Gates that name others: `any_of`, one of which is enough at one risk for all, and `requires`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from harness.errors import did_you_mean
from harness.gates.gate import ClaimType, Gate
from harness.records.claim_spec import ClaimSpec
from harness.records.metrics import Metric
from harness.records.verdicts import Outcome
from harness.stats.multiple_testing import adjust_holm

COUNT_REASON = "which counts failures and has no risk that an any_of could share; claim it in a gate of its own"


class Group(ClaimType):
    """One of several gates is proven."""

    keys = ("any_of",)

    def find_mistakes(self, gate: Gate) -> list[str]:
        own = ("metric", "min", "max", "max_failures", "versus", "better_by", "worse_by_at_most", "on_at_most", "slice")
        more = ("decide", "clean_only", "estimand", "cap", "range", "allow_approximate", "cut_at_most", "of")
        stray = [[key for key in keys if getattr(gate, key) != getattr(Gate, key)] for keys in (own, more)]
        told = (*stray[0][:1], *stray[1])
        found = [f'"{key}" belongs to the gates that any_of names; move it there' for key in told]
        return found + (["any_of names one gate; name two or more"] if len(set(gate.any_of)) < 2 else [])

    def claim_text(self, gate: Gate) -> str:
        return "any of " + ", ".join(f'"{name}"' for name in gate.any_of)

    def claim_spec(self, gate: Gate, metric: Metric | None) -> ClaimSpec:
        return ClaimSpec("group")


def link_groups(gates: Sequence[Gate]) -> tuple[Gate, ...]:
    """Link each member of an `any_of` to its group.

    It takes the group's risk, candidates and severity.
    """
    groups = {member: gate for gate in gates for member in gate.any_of}
    return tuple(
        replace(g, group=of.id, among=len(of.any_of), on=of.on, alpha=of.alpha, severity=of.severity)
        if (of := groups.get(g.id))
        else g
        for g in gates
    )


def assign_recipe_gates(gates: Sequence[Gate], recipe: str) -> tuple[Gate, ...]:
    """Restrict gates of the recipe to its candidate.

    That candidate has one model for every seed. Gates with `on` keep theirs.
    """
    return tuple(replace(g, on=[recipe]) if g.of == "recipe" and recipe and not g.on else g for g in gates)


def adjust_member_p_values(p_values: Iterable[float | None]) -> list[float]:
    """Adjust the members' p-values by Holm (1979). One that could not be judged counts as 1."""
    return adjust_holm([1.0 if p is None else p for p in p_values])


def member_p_pass(gate: Gate, risk: str, p_pass: float | None) -> float | None:
    """Return a member's p-value. None if its risk forbids a pass."""
    return None if gate.forbids_risk(risk) else p_pass


def group_p_fail(p_values: Iterable[float | None]) -> float:
    """Return the p-value of all members being refuted."""
    return max(1.0 if p is None else p for p in p_values)


def group_outcome(outcomes: Collection[str]) -> Outcome:
    """Combine the outcomes of a group's members.

    One PASS is enough; without one, an ERROR is that of the group. If all failed it is a FAIL.
    """
    if known := next((o for o in (Outcome.PASS, Outcome.ERROR) if o in outcomes), None):
        return known
    return Outcome.FAIL if set(outcomes) == {Outcome.FAIL} else Outcome.INCONCLUSIVE


def find_member_mistakes(gates: Sequence[Gate]) -> Iterator[tuple[Gate, str]]:
    """Yield mistakes in the gates that `any_of` names. `gates` are those of the suite, not linked yet."""
    by_id = {g.id: g for g in gates}
    named = Counter(name for g in gates for name in set(g.any_of))
    for gate in gates:
        for member in (by_id[name] for name in dict.fromkeys(gate.any_of) if name in by_id):
            for key, odd in (("any_of", member.any_of), ("severity", member.severity != "block"), ("on", member.on)):
                if odd:
                    yield gate, (f'any_of names "{member.id}", which has its own "{key}"; remove it there')
            if member.alpha is not None:
                yield (
                    gate,
                    (f'any_of names "{member.id}", which has its own "alpha"; remove it, since the group shares one'),
                )
            if member.kind.counts:
                yield gate, f'any_of names "{member.id}", {COUNT_REASON}'
            if named[member.id] > 1:
                yield gate, f'any_of names "{member.id}", which is in another any_of already'


def find_order_mistakes(gates: Sequence[Gate], candidates: Sequence[str]) -> list[tuple[Gate, str]]:
    """Return mistakes in how gates refer to each other.

    These are unknown ids, cycles, and gates that are not on every candidate of the gate that names them.
    """
    by_id = {g.id: g for g in gates}
    mistakes = []
    for gate in gates:
        for key, names in (("requires", gate.requires), ("any_of", gate.any_of)):
            for name in names:
                if name not in by_id:
                    mistake = f'{key} names "{name}", which is not a gate{did_you_mean(name, by_id)}'
                    mistakes.append((gate, f"{mistake}; list ids of gates only"))
                elif lacking := [c for c in candidates if gate.applies_to(c) and not by_id[name].applies_to(c)]:
                    mistakes.append(
                        (gate, f'{key} names "{name}", which is not evaluated on {lacking[0]}; check its "on"')
                    )
    if any("which is not a gate" in mistake for _, mistake in mistakes):
        return mistakes
    order = TopologicalSorter[str](dict.fromkeys(by_id, ()))
    for gate in by_id.values():
        for name in (*gate.requires, *gate.any_of):
            order.add(name, gate.id)  # the other way round: a circle is told from who waits to what is waited for
    try:
        order.prepare()
    except CycleError as error:
        circle = error.args[1]  # first and last the same
        mistakes.append((by_id[circle[0]], "requires form a cycle: " + " -> ".join(circle)))
    return mistakes
