"""Which attempt at its rows an evaluation is, from lines of the ledger: the same for a run and for its verification.

A line is what one evaluation tells of a candidate (`harness.pipeline.ledger`). Its id is the digest of its content, so
whoever has some of the lines can tell that none of them was changed. With the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.artifacts.attestation import LEDGER_FORMAT

Line = Mapping[str, Any]
HEAD = ("format", "id", "after", "time")  # what every line has
CLAIMED = ("rows", "claims", "settings", "measure")  # what the lock tells of an attempt as well
TEXTS = ("place", "role", "weights", "base", "project", "scores", "continues", *CLAIMED)  # that are read again
ID_DIGITS = 16  # hex digits of a line's digest in the evidence


@dataclass(frozen=True)
class AttemptNumber:
    """The number of an attempt at its rows, from 1.

    `stages` has the number of rows of each of its looks, its own last.
    """

    number: int
    stages: tuple[int, ...]
    line: str = ""  # what it goes by in the ledger, empty where it is not there yet
    continues: str = ""  # the look of the same weights at some of the rows
    others: tuple[str, ...] = ()  # the suites of the attempts before it
    foreign: int = 0  # looks at models of another base


@dataclass(frozen=True)
class LedgerExtract:
    """The lines that the number of an attempt follows from.

    `line` is the id of its own. `near` are the ids of all lines in its role at enough of its rows, its own included;
    `lines` are these, and all that are the same attempt as one of them, in the ledger's order.
    """

    line: str
    near: tuple[str, ...]
    lines: tuple[Line, ...]


def derive_attempt(extract: LedgerExtract, base: str) -> AttemptNumber:
    """Return the number of a recorded attempt at a model made of `base`. Raises KeyError if its line is not there."""
    own = {line["id"]: line for line in extract.lines}[extract.line]
    near = [line for line in extract.lines if line["id"] in extract.near]
    before = count_attempts_before(map_looks_to_attempts(extract.lines)[own["id"]], near, base, extract.lines)
    number = max(before.number, own["attempt"])  # lines of another ledger may come before it, but none is lost
    stages = list_stages(own["id"], extract.lines)
    return AttemptNumber(number, stages, own["id"], own["continues"], before.others, before.foreign)


@dataclass(frozen=True)
class EarlierAttempts:
    """The attempts before one: its own number, the suites of the others, and how many were of another base."""

    number: int
    others: tuple[str, ...]
    foreign: int


def count_attempts_before(root: str, near: Sequence[Line], base: str, looks: Sequence[Line]) -> EarlierAttempts:
    """Count the attempts before one, which is known by its first look, among the looks at its rows.

    With an empty `root` the attempt begins now. Looks at models of another `base` do not count.
    """
    first = map_looks_to_attempts(looks)
    foreign = [line for line in near if is_of_other_base(line, base)]
    same_base = [line for line in near if not is_of_other_base(line, base)]
    roots = list(dict.fromkeys(first[line["id"]] for line in same_base))
    earlier = roots[: roots.index(root)] if root in roots else roots
    counts = {line["id"]: int(line["count"]) for line in looks}
    number = 1 + sum(counts[one] for one in earlier)
    others = tuple(line["place"] for line in same_base if line["id"] in earlier)
    return EarlierAttempts(number, others, len({first[line["id"]] for line in foreign}))


def is_of_other_base(line: Line, base: str) -> bool:
    """Return whether a look was at a model that was made of another one."""
    return bool(line["base"] and base and line["base"] != base)


def list_stages(look: str, looks: Sequence[Line]) -> tuple[int, ...]:
    """Return the number of rows of a look and of all looks that it continues, the first of them first."""
    by_id, stages = {line["id"]: line for line in looks}, list[int]()
    line = by_id.get(look)
    while line is not None and len(stages) < len(looks):
        stages.insert(0, int(line["n"]))
        line = by_id.get(line["continues"])
    return tuple(stages)


def extract_lines(line: str, near: Sequence[Line], looks: Sequence[Line]) -> LedgerExtract:
    """Return what the number of a recorded attempt follows from, of a whole ledger."""
    ids = {look["id"] for look in near}
    keys = {make_attempt_key(look) for look in near}
    known = 0
    while known < len(ids):
        known = len(ids)
        for look in looks:
            same = make_attempt_key(look) in keys or look["id"] in ids or look["continues"] in ids
            if same:
                keys.add(make_attempt_key(look))
                ids |= {look["id"], look["continues"]} - {""}
    return LedgerExtract(line, tuple(look["id"] for look in near), tuple(look for look in looks if look["id"] in ids))


def map_looks_to_attempts(looks: Sequence[Line]) -> dict[str, str]:
    """Map each look to its attempt, the id of its first look.

    Looks that went on from each other are one attempt, and so are those at one candidate under one set of claims and
    settings, unless an evaluation was repeated with other scores.
    """
    attempts: dict[str, str] = {}
    latest: dict[tuple[str, ...], str] = {}
    scored: dict[tuple[str, ...], dict[str, str]] = {}
    for line in looks:
        id_: str = line["id"]
        key = make_attempt_key(line)
        if line["continues"] in attempts:
            attempts[id_] = attempts[line["continues"]]
        elif not line["claims"]:
            attempts[id_] = id_
        else:
            before = scored.setdefault((*key, line["measure"]), {})
            known_root = id_ if before else latest.get(key, id_)
            root = before.setdefault(line["scores"], known_root)
            latest[key], attempts[id_] = root, root
    return attempts


def make_attempt_key(line: Line) -> tuple[str, ...]:
    """Return what looks at one candidate under one set of claims have in common."""
    return line["role"], line["weights"], line["claims"], line["settings"]


# -- what a line is --------------------------------------------------------------------------------


def is_look(line: Any) -> bool:
    """Return whether a value has what is read of a look."""
    if not has_head(line) or not all(isinstance(line.get(key), str) for key in TEXTS):
        return False
    counts = all(type(line.get(key)) is int and line[key] >= 0 for key in ("n", "count", "attempt"))
    digest = re.fullmatch("[0-9a-f]{64}", line["rows"]) is not None
    return digest and counts and isinstance(line.get("most"), int | None)


def has_head(line: Any) -> bool:
    """Return whether a value has what every line of a ledger has."""
    if not isinstance(line, dict) or not all(key in line for key in HEAD) or not isinstance(line["after"], list):
        return False
    return all(isinstance(text, str) for text in (line["id"], *line["after"]))


def find_line_error(line: Any) -> str:
    """Return what is wrong with a look out of somebody's ledger, or an empty text."""
    if not is_look(line) or line["format"] != LEDGER_FORMAT:
        return "is not a look of this version"
    return "" if hash_line(line) == line["id"] else f"{line['id'][:ID_DIGITS]} was changed after it was written"


def hash_line(line: Line) -> str:
    """Return the id of a line: the digest of all that it says."""
    text = json.dumps({key: value for key, value in line.items() if key != "id"}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
