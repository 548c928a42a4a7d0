"""How the gates of a suite may name each other: members, order and circles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.errors import did_you_mean
from harness.records.gates import COUNTED, Gate


def order_mistakes(gates: Sequence[Gate], candidates: Sequence[str]) -> list[tuple[Gate, str]]:
    """Return what is wrong with how gates name each other: unknown ids, circles, candidates of only one of them."""
    by_id = {g.id: g for g in gates}
    mistakes = []
    for gate in gates:
        for key, names in (("requires", gate.requires), ("any_of", gate.any_of)):
            for name in names:
                if name not in by_id:
                    mistake = f'{key} names "{name}", which is no gate{did_you_mean(name, by_id)}'
                    mistakes.append((gate, f"{mistake}; it takes ids of gates, nothing else"))
                elif lacking := [c for c in candidates if gate.applies_to(c) and not by_id[name].applies_to(c)]:
                    mistakes.append((gate, f'{key} names "{name}", which is not judged on {lacking[0]}; see its "on"'))
    if any("which is no gate" in mistake for _, mistake in mistakes):
        return mistakes
    circle = _circle(by_id)
    return [*mistakes, *([(by_id[circle[0]], "goes round in a circle: " + " -> ".join(circle))] if circle else [])]


def member_mistakes(gates: Sequence[Gate]) -> Iterator[tuple[Gate, str]]:
    """Yield what is wrong with the gates that `any_of` names; `gates` as they stand in the suite."""
    by_id = {g.id: g for g in gates}
    named = Counter(name for g in gates for name in set(g.any_of))
    for gate in gates:
        for member in (by_id[name] for name in dict.fromkeys(gate.any_of) if name in by_id):
            for key, odd in (("any_of", member.any_of), ("severity", member.severity != "block"), ("on", member.on)):
                if odd:
                    yield gate, f'any_of names "{member.id}", which has "{key}" of its own'
            if member.alpha is not None:
                yield gate, f'any_of names "{member.id}", which has "alpha" of its own; the group shares one'
            if member.max_failures is not None:
                yield gate, f'any_of names "{member.id}", {COUNTED}'
            if named[member.id] > 1:
                yield gate, f'any_of names "{member.id}", which another any_of names too'


def _circle(by_id: Mapping[str, Gate]) -> list[str]:
    """Return gates that wait for each other, first and last the same, or nothing."""
    done: set[str] = set()
    for name in by_id:
        path: dict[str, Iterator[str]] = {}  # gates that wait, in order, and what each has yet to be followed to
        following: str | None = name
        while following is not None or path:
            if following is not None and following not in done:
                if following in path:
                    names = list(path)
                    return [*names[names.index(following) :], following]
                path[following] = iter((*by_id[following].requires, *by_id[following].any_of))
            last = next(reversed(path), None)
            if last is None:
                break
            following = next(path[last], None)
            if following is None:
                done.add(last)
                del path[last]
    return []
