"""What a candidate's gates are judged on in one run: its weights, the keys of all rows, and the scores so far.

A row's key does not know the row's id, its place, or which eval of which suite asked it, so that a question is
recognised when it is put again under another name. See docs/decisions/0060-attempts.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from harness.collection.plan import Plan, Task
from harness.data import chat
from harness.records.gates import Gate
from harness.records.samples import Result, Sample

DIGITS = 32  # hex digits kept of a row's sha256: 128 bits, so that two rows of a million never share them
Role = Literal["adapter", "merged", "conversion"]
Seen = Mapping[str, tuple[str, ...]]  # digest of an eval's keys -> digests of the scores on them, "" where none yet


@dataclass(frozen=True)
class Look:
    """One candidate in one run. `whole` says that all its evaluations ended, so that no score is to come."""

    role: Role
    weights: str
    keys: frozenset[str]
    seen: Seen
    whole: bool

    @cached_property
    def rows(self) -> str:
        """Return the digest of the set of keys."""
        return rows_digest(self.keys)


def look_of(
    role: Role, weights: str, keys: Mapping[str, frozenset[str]], scores: Mapping[str, str], whole: bool
) -> Look:
    """Return a look from the keys of its evals' rows and the digests of those scores that are there, by eval."""
    seen: dict[str, list[str]] = {}
    for name, own in keys.items():
        seen.setdefault(rows_digest(own), []).append(scores.get(name, ""))
    every = frozenset[str]().union(*keys.values())
    return Look(role, weights, every, {rows: tuple(sorted(each)) for rows, each in seen.items()}, whole)


def risked(plan: Plan, candidate: str) -> list[str]:
    """Return the evals of a run that gates of a candidate take a risk on: every one but those with budgets alone."""
    chosen = {i.eval for i in plan.items if i.subject == candidate}
    return [n for n in plan.tasks if n in chosen and any(_risks(plan, g, n) for g in plan.gates(candidate))]


def role_of(plan: Plan, candidate: str) -> Role:
    """Return what a candidate is of; models of one role are attempts at the same question."""
    if candidate in plan.suite.copies:
        return "conversion"
    return "adapter" if candidate == "adapter" else "merged"


def keys_of(samples: Iterable[Sample]) -> frozenset[str]:
    """Return the keys of rows; what is no row of data, such as the model itself, has none."""
    return frozenset(key for s in samples if (key := row_key(s)))


def row_key(sample: Sample) -> str:
    """Return the sha256 of a row's canonical input and target, 32 hex digits, or nothing for a row that holds nothing.

    A row without both is known by its text, or else by all its columns but the id.
    """
    asked = _messages(sample.input)
    targets = [sample.target] if isinstance(sample.target, str) else sample.target
    wanted = sorted(filter(None, map(_text, targets)))
    if not (asked or wanted):
        text = sample.row.get("text")
        rest = text if isinstance(text, str) else {k: v for k, v in sample.row.items() if k != "id"}
        if not rest:
            return ""
        asked = [["text", _canonical(rest)]]
    return _sha256([asked, wanted])[:DIGITS]


def rows_text(keys: Iterable[str]) -> str:
    """Write keys as a file holds them, a line each, sorted."""
    return "".join(f"{key}\n" for key in sorted(keys))


def rows_digest(keys: Iterable[str]) -> str:
    """Return the sha256 of a set of keys, 64 hex digits: that of the file which holds them."""
    return hashlib.sha256(rows_text(keys).encode()).hexdigest()


def scores_digest(task: Task, result: Result) -> str:
    """Return the sha256 of what every row scored, whatever rows and metrics are called and in which order they came."""
    keys = {s.id: row_key(s) for s in task.samples or ()}
    rows = ([keys.get(s.id, ""), sorted(repr(float(v)) for v in s.values.values())] for s in result.scores)
    return _sha256([*sorted(rows), *(dataclasses.asdict(labels) for labels in result.labels)])


def agrees(mine: Seen, theirs: Seen) -> bool:
    """Return whether an earlier look saw these scores, or else was cut off before it could have seen others."""
    for rows, scores in mine.items():
        known = theirs.get(rows, ())
        if sum((_filled(scores) - _filled(known)).values()) > known.count(""):
            return False
    return True


def together(mine: Seen, theirs: Seen) -> dict[str, list[str]]:
    """Return the scores of two looks that agree; what one of them reserved and nobody saw stays reserved."""
    found = {}
    for rows in sorted({*mine, *theirs}):
        ours, others = mine.get(rows, ()), theirs.get(rows, ())
        filled = sorted((_filled(ours) | _filled(others)).elements())
        found[rows] = filled + [""] * (max(len(ours), len(others)) - len(filled))
    return found


def _risks(plan: Plan, gate: Gate, name: str) -> bool:
    if gate.eval != name:
        return False
    metric = plan.tasks[name].metrics.get(gate.metric_name)
    return metric is None or metric.scale != "count"


def _filled(scores: Sequence[str]) -> Counter[str]:
    return Counter(s for s in scores if s)


def _messages(prompt: Any) -> list[Any]:
    """Return a prompt as chat messages: a text is what a user says, and says nothing where it is empty.

    Template arguments are options, and no part of the question.
    """
    if not isinstance(prompt, list):
        return [{"role": "user", "content": said}] if (said := _text(prompt)) else []
    return [_canonical(message) for message in chat.split(prompt)[0]]


def _canonical(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    return [_canonical(v) for v in value] if isinstance(value, (list, tuple)) else value


def _text(value: Any) -> str:
    """Return a text in Unicode's composed form, with one space for every run of white space."""
    return " ".join(unicodedata.normalize("NFC", str(value)).split())


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
