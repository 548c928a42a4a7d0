"""How the gates of a suite may name each other: members, order and circles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.errors import did_you_mean
from harness.records.gates import COUNTED, Gate


def order_mistakes(gates: Sequence[Gate], candidates: Sequence[str]) -> list[tuple[Gate, str]]:
    """Return what is wrong with how gates name each other: unknown ids, circles, candidates of only one of them."""
    known = {g.id: g for g in gates}
    found = []
    for gate in gates:
        for key, names in (("requires", gate.requires), ("any_of", gate.any_of)):
            for name in names:
                if name not in known:
                    what = f'{key} names "{name}", which is no gate{did_you_mean(name, known)}'
                    found.append((gate, f"{what}; it takes ids of gates, nothing else"))
                elif lacking := [c for c in candidates if gate.applies_to(c) and not known[name].applies_to(c)]:
                    found.append((gate, f'{key} names "{name}", which is not judged on {lacking[0]}; see its "on"'))
    if any("which is no gate" in what for _, what in found):
        return found
    circle = _circle(known)
    return [*found, *([(known[circle[0]], "goes round in a circle: " + " -> ".join(circle))] if circle else [])]


def member_mistakes(gates: Sequence[Gate]) -> Iterator[tuple[Gate, str]]:
    """Yield what is wrong with the gates that `any_of` names; `gates` as they stand in the suite."""
    known = {g.id: g for g in gates}
    named = Counter(name for g in gates for name in set(g.any_of))
    for gate in gates:
        for member in (known[name] for name in dict.fromkeys(gate.any_of) if name in known):
            for key, odd in (("any_of", member.any_of), ("severity", member.severity != "block"), ("on", member.on)):
                if odd:
                    yield gate, f'any_of names "{member.id}", which has "{key}" of its own'
            if member.alpha is not None:
                yield gate, f'any_of names "{member.id}", which has "alpha" of its own; the group shares one'
            if member.max_failures is not None:
                yield gate, f'any_of names "{member.id}", {COUNTED}'
            if named[member.id] > 1:
                yield gate, f'any_of names "{member.id}", which another any_of names too'


def _circle(known: Mapping[str, Gate]) -> list[str]:
    """Return gates that wait for each other, first and last the same, or nothing."""
    done: set[str] = set()
    for name in known:
        path: dict[str, Iterator[str]] = {}  # gates that wait, in order, and what each has yet to be followed to
        following: str | None = name
        while following is not None or path:
            if following is not None and following not in done:
                if following in path:
                    names = list(path)
                    return [*names[names.index(following) :], following]
                path[following] = iter((*known[following].requires, *known[following].any_of))
            last = next(reversed(path), None)
            if last is None:
                break
            following = next(path[last], None)
            if following is None:
                done.add(last)
                del path[last]
    return []
