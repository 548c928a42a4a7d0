"""How often the same rows were looked at: an append-only ledger, since seven attempts at 5 % are not one.

    attempts.jsonl       a line a look; a look that goes on has another line with the same `look`
    attempts/<sha256>    the keys of the rows that looks were on

A look counts for another when a tenth of the smaller set of rows is common to both. Names, options, metrics, claims,
slices, baselines, order and recipe are no part of it: trying another one is what an attempt is.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_of
from harness.errors import UsageError
from harness.files import append_line, exclusive, write_text
from harness.pipeline.looks import Look, Role, Seen, agrees, rows_text, together
from harness.records.gates import Gate, Verdict
from harness.records.samples import Result, Sample, Score
from harness.suite.tables import Eval, Suite

FILE = "attempts.jsonl"  # in the cache folder, and the only file there that cannot be made again
FORMAT = 2
NAMED = 4  # suites of earlier looks
SHARE = 10  # a look counts when one in so many rows of the smaller set is common


@dataclass(frozen=True)
class Attempt:
    """The how-manieth look at these rows it is, from 1, and the name it goes by in the ledger.

    Not `sure` where it may be a look that was had before, and what is still to be scored will tell. `others` are the
    suites of the looks before it.
    """

    look: str
    number: int
    sure: bool = True
    others: tuple[str, ...] = ()


@dataclass
class Earlier:
    """A look in the ledger; its place there is that of its first line."""

    look: str
    role: Role
    weights: str
    rows: list[str]  # digests of the sets of keys it was on, one a line
    seen: Seen
    suite: str = ""  # where it lay, or its name in lines that do not say


class Ledger:
    """The attempts in one file, read anew at every question: other runs write it too."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self.warn = path, warn
        self.told: set[str] = set()  # what cannot be read, told once
        self.met: dict[tuple[str, str], bool] = {}  # pairs of sets of rows, and whether they have enough in common

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other runs out, from reading to appending. Raises UsageError where that is impossible."""
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(self.path))
            except OSError as error:
                raise UsageError(f"{self.path}: attempts cannot be written down: {error.strerror}") from None
            yield

    def attempt(self, look: Look, old: Callable[[], Sequence[tuple[str, str]]]) -> Attempt:
        """Return which attempt a look is: one more than the distinct earlier ones in its role on enough of its rows.

        `old` returns the questions of the first format that its gates put, each with what was seen, if known.
        """
        lines = self.lines()
        near = [e for e in _looks(lines) if e.role == look.role and any(self.meets(rows, look) for rows in e.rows)]
        same = [e for e in near if e.weights == look.weights and agrees(look.seen, e.seen)]
        before = near.index(same[-1]) if same else len(near)
        number = 1 + before + _old_looks(lines, old)
        others = tuple(e.suite for e in near[:before])
        return Attempt(same[-1].look if same else uuid.uuid4().hex, number, look.whole or not same, others)

    def earlier(self, role: Role, keys: frozenset[str]) -> int:
        """Count the distinct looks so far in a role on enough of these rows."""
        look = Look(role, "", keys, {}, whole=False)
        return sum(e.role == role and any(self.meets(r, look) for r in e.rows) for e in _looks(self.lines()))

    def record(self, attempt: Attempt, look: Look, suite: Suite, candidate: str) -> None:
        """Write a look down, unless it stands there already. Raises UsageError where that is impossible."""
        stored = next((e for e in _looks(self.lines()) if e.look == attempt.look), None)
        rows = look.rows
        seen = together(look.seen, stored.seen if stored else {})
        if stored and rows in stored.rows and seen == {k: list(v) for k, v in stored.seen.items()}:
            return
        line = {
            "format": FORMAT,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": suite.name,
            "place": place_of(suite.path),
            "suite_digest": suite.digest,
            "candidate": candidate,
            "attempt": attempt.number,
            "look": attempt.look,
            "role": look.role,
            "weights": look.weights,
            "rows": rows,
            "scores": seen,
        }
        try:
            if self.keys(rows) is None:
                write_text(self.file(rows), rows_text(look.keys))
            append_line(self.path, line)
        except OSError as error:
            raise UsageError(f"{self.path}: attempts cannot be written down: {error.strerror}") from None

    def meets(self, rows: str, look: Look) -> bool:
        """Return whether two sets of rows have enough in common; true where one cannot be read."""
        pair = rows, look.rows
        if pair not in self.met:
            theirs = self.keys(rows)
            if theirs is None:
                self.tell(f"{self.file(rows)}: cannot be read; what was looked at there counts as these rows")
            enough = theirs is None or SHARE * len(theirs & look.keys) >= min(len(theirs), len(look.keys))
            self.met[pair] = enough
        return self.met[pair]

    def keys(self, rows: str) -> frozenset[str] | None:
        """Return the keys in a file of rows, or None where it is not there or not what it was."""
        try:
            data = self.file(rows).read_bytes()
        except OSError:
            return None
        return frozenset(data.decode().split()) if hashlib.sha256(data).hexdigest() == rows else None

    def file(self, rows: str) -> Path:
        """Return the file that holds a set of rows."""
        return self.path.with_suffix("") / rows

    def lines(self) -> list[dict[str, Any]]:
        """Return what was written; a line that cannot be read is told, since an attempt is missing then."""
        try:
            text = self.path.read_text("utf-8", errors="replace") if self.path.exists() else ""
        except OSError as error:
            raise UsageError(f"{self.path}: attempts cannot be read: {error.strerror}") from None
        found = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                read = json.loads(line)
            except (ValueError, RecursionError):
                read = None
            if _is_look(read) or _is_old(read):
                found.append(read)
            else:
                self.tell(f"{self.path}:{number}: cannot be read; the attempts that are told may be too few")
        return found

    def tell(self, what: str) -> None:
        if what not in self.told:
            self.told.add(what)
            self.warn(what)


def place_of(suite: Path) -> str:
    """Return a suite's file with its folder, which tells copies of a project apart and no more of the machine."""
    path = suite.absolute()
    return f"{path.parent.name}/{path.name}"


def attempts_said(verdicts: Sequence[Verdict], spend: bool, others: Sequence[str] = ()) -> list[str]:
    """Return what repeated attempts mean for the stated risk, a line for all gates; `others` are the suites before."""
    again = [v for v in verdicts if v.attempt > 1 and v.alpha]
    if not again:
        return []
    most = max(again, key=lambda v: (v.attempt, v.blocking))
    k, alpha = most.attempt, most.alpha or 0.0
    places = Counter(others).most_common(NAMED)
    told = ", ".join(f"{place} ({n})" if n > 1 else place for place, n in places)
    where = f"; before it: {told}" if told else ""
    if spend:
        return [
            f'attempt {k} of "{most.gate}" was tested at alpha {alpha:.2g}, so that all attempts together keep the risk'
            + where
        ]
    risk = min(1.0, k * alpha)
    return [
        f'attempt {k} of "{most.gate}" on the same rows: {k} attempts at {alpha:g} may add up to a risk of {risk:.2g}; '
        f'choose on a select split (--select), or write attempts = "spend"{where}'
    ]


def _looks(lines: Sequence[Mapping[str, Any]]) -> list[Earlier]:
    """Return the looks of the lines, the oldest first; a look that goes on stays where it began."""
    found: dict[str, Earlier] = {}
    for line in (x for x in lines if _is_look(x)):
        seen = {rows: tuple(scores) for rows, scores in line["scores"].items()}
        suite = str(line.get("place") or f'suite "{line.get("suite", "")}"')
        one = found.setdefault(line["look"], Earlier(line["look"], line["role"], line["weights"], [], seen, suite))
        one.rows += [line["rows"]] if line["rows"] not in one.rows else []
        one.seen = seen
    return list(found.values())


def _is_look(line: Any) -> bool:
    if not isinstance(line, dict) or line.get("format") != FORMAT:
        return False
    named = all(isinstance(line.get(key), str) for key in ("look", "role", "weights", "rows"))
    scores = line.get("scores")
    if not named or not re.fullmatch("[0-9a-f]{64}", line["rows"]) or not isinstance(scores, dict):
        return False
    return all(isinstance(each, list) and all(isinstance(s, str) for s in each) for each in scores.values())


# -- the first format: a line a gate, known by the question it put -----------------------------------


def question_of(suite: Suite, gate: Gate, spec: Eval, samples: Sequence[Sample], candidate: str) -> str:
    """Return the name that a question has in lines of the first format."""
    asks: Mapping[str, Any] = {
        "suite": suite.name,
        "rows": digest_of([(s.id, s.input, s.target, s.row) for s in samples]),
        "candidate": candidate,
        "use": [spec.use, dict(spec.options), spec.cluster],
        "metric": gate.metric,
        "versus": gate.versus,
        "slice": gate.slices,
        "claim": [
            k for k in ("min", "max", "max_failures", "better_by", "worse_by_at_most") if getattr(gate, k) is not None
        ],
    }
    return digest_of(asks)


def seen_of(candidate: Result, baseline: Result | None, metric: str) -> str:
    """Return the name that weights and both models' scores have in lines of the first format."""
    total = hashlib.sha256(candidate.digest.encode())
    for result in (candidate, baseline):
        for scores in (_numbers(result.scores, metric),) if result else ():
            total.update(array("d", scores).tobytes())
    return total.hexdigest()


def _numbers(scores: Sequence[Score], metric: str) -> list[float]:
    found: list[float] = []
    for s in scores:
        found += [s.values[metric]] if metric in s.values else sorted(s.values.values())
    return found


def _is_old(line: Any) -> bool:
    named = isinstance(line, dict) and "format" not in line
    return named and all(isinstance(line.get(key), str) for key in ("question", "seen"))


def _old_looks(lines: Sequence[Mapping[str, Any]], asked: Callable[[], Sequence[tuple[str, str]]]) -> int:
    """Count the distinct looks of the first format at the gate with most of them, or those before its own."""
    old = [line for line in lines if _is_old(line)]
    most = 0
    for question, seen in asked() if old else ():
        looks = list(dict.fromkeys(line["seen"] for line in old if line["question"] == question))
        most = max(most, looks.index(seen) if seen in looks else len(looks))
    return most
