"""How often the same rows were looked at: an append-only ledger, since seven attempts at 5 % are not one.

    attempts.jsonl       a line a look; HARNESS_LEDGER names another file
    attempts/<sha256>    what the rows of a look ask, a line a row

A look is what one evaluation tells of a candidate: its weights, what its rows ask, and what they scored. Looks at one
candidate under one set of claims are one attempt (`harness.pipeline.attempt`). A row is known by what it asks
(`harness.data.identity`), not by its id, its place or which eval of which suite asked it, so that a question is
recognised when it is put again in other words. See docs/decisions/0024-attempts-in-an-append-only-ledger.md and
docs/decisions/0041-attempts-are-candidates-with-claims.md.

Each line has the digest of what it says and of the last lines before it, so that none can be lost or changed without a
trace; two ledgers that went on from one are joined by putting their lines into one file. What was there when a release
was judged stands in its evidence.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from harness.artifacts.attestation import LEDGER_FORMAT
from harness.collection.collection import Task
from harness.errors import UsageError
from harness.files import append_line, cache_dir, hold_exclusively, split_json_lines, write_text
from harness.gates.attempts import (
    ID_DIGITS,
    AttemptNumber,
    LedgerExtract,
    Line,
    count_attempts_before,
    derive_attempt,
    extract_lines,
    has_head,
    hash_line,
    is_look,
    is_of_other_base,
    list_stages,
    make_attempt_key,
    map_looks_to_attempts,
)  # fmt: skip
from harness.records.samples import Result
from harness.records.verdicts import Verdict
from harness.suite.tables import Suite

FILE, ELSEWHERE = "attempts.jsonl", "HARNESS_LEDGER"  # in the cache folder, and the only file there that matters
SUITE_WAY = 'choose on a select split (--select), or write attempts = "spend"'
MAX_NAMED_SUITES = 4  # suites of earlier looks
LOST_LEDGER_WARNING = "earlier attempts are then unknown"
Role = Literal["adapter", "merged", "conversion"]  # of a candidate: models of one are attempts at the same question
Row = tuple[str, ...]  # the keys of one row
OVERLAP_DIVISOR = 10  # rows are met again when one in so many of the smaller set is
ROOTS = (".git", "pyproject.toml")  # what lies in the folder of a project


@dataclass(frozen=True)
class LedgerEntry:
    """One evaluation of one candidate."""

    role: Role
    weights: str
    rows: frozenset[Row]
    scores: Mapping[Row, Sequence[str]] = field(default_factory=dict)  # empty as long as they are not known
    base: str = ""  # the digest of the model it was made of
    project: str = ""  # of rows which every project has
    most: int | None = None  # rows there will ever be, where that is declared
    claims: str = ""  # the digest of what is claimed on these questions; empty: each look is its own attempt
    settings: str = ""  # of how all evaluations on these questions are set
    measure: str = ""  # of how this one is
    count: int = 1  # attempts that it stands for

    @cached_property
    def text(self) -> str:
        """The text of the rows file. Each line has the keys of one row, and the lines are sorted."""
        return "".join(f"{line}\n" for line in sorted(map(" ".join, self.rows)))  # twice as fast as tuples sort

    @cached_property
    def digest(self) -> str:
        """The digest of the set of rows: of the file that holds it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def scores_digest(self, rows: frozenset[Row] | None = None) -> str:
        """Digest the scores of some or all rows. Empty if the scores are not known."""
        if not self.scores:
            return ""
        return _hash_value(sorted([*row, *self.scores.get(row, ())] for row in (self.rows if rows is None else rows)))


def counts_as_attempt(task: Task) -> bool:
    """Return whether a look at an eval counts as an attempt.

    It does, gated or not, unless all its metrics are counts or none of its rows has a key.
    """
    return any(not m.is_count for m in task.metrics.values()) and any(task.keys)


def scores_by_row(task: Task, result: Result) -> dict[Row, tuple[str, ...]]:
    """Return each row's scores, followed by the digests of labels, without any names."""
    scores = {s.id: s for s in result.scores}
    labels = [_hash_value(asdict(found)) for found in result.labels]
    found: dict[Row, list[str]] = {}
    for sample, row in zip(task.samples or (), task.keys, strict=True):
        if row and (score := scores.get(sample.id)) is not None:
            found.setdefault(row, []).extend(sorted(repr(float(v)) for v in score.values.values()))
    return {row: (*sorted(values), *labels) for row, values in found.items()}


def overlaps(one: frozenset[Row], other: frozenset[Row]) -> bool:
    """Return whether a look at one set of rows reveals the other. They must share a tenth of the smaller set."""
    small, large = sorted((one, other), key=len)
    keys = _flatten_row_keys(large)
    return bool(small) and OVERLAP_DIVISOR * sum(not keys.isdisjoint(row) for row in small) >= len(small)


@lru_cache(maxsize=1)  # of the rows that are looked at now, mostly
def _flatten_row_keys(rows: frozenset[Row]) -> frozenset[str]:
    return frozenset(key for row in rows for key in row)


def project_name(suite: Path) -> str:
    """Return the name of the project that a suite lies in: of the folder with its repository, or its own."""
    folder = suite.absolute().parent
    return next((f.name for f in (folder, *folder.parents) if any((f / r).exists() for r in ROOTS)), folder.name)


def _hash_value(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class LedgerState:
    """The line digests of a ledger.

    `ledgers` are its first lines, `heads` its last; `began` says whether it began with this run.
    """

    ledgers: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    began: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as evidence has it."""
        names = {"ledgers": self.ledgers, "heads": self.heads, "lines": self.lines}
        return {name: sorted(x[:ID_DIGITS] for x in many) for name, many in names.items()} | {"began": self.began}


class Ledger:
    """The attempts in one file, read anew at every question: other runs write it too."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self.warn = path, warn
        self.empty = not path.exists() or not path.stat().st_size  # as it was found
        self._known: tuple[tuple[int, int], list[dict[str, Any]]] = ((-1, 0), [])
        self._parsed: tuple[bytes, dict[str, dict[str, Any]]] = (b"", {})  # whole lines of it, and what they say by id
        self._met: dict[tuple[str, str], bool] = {}

    @classmethod
    def from_environment(cls, warn: Callable[[str], None]) -> Ledger:
        """Return the ledger of HARNESS_LEDGER, else of the cache folder."""
        named = os.environ.get(ELSEWHERE)
        return cls(Path(named).absolute() if named else cache_dir() / FILE, warn)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep all other runs out, from reading to appending. Raises UsageError where that is impossible."""
        with ExitStack() as held:
            try:
                held.enter_context(hold_exclusively(self.path))
            except OSError as error:
                raise self._make_write_error(error) from None
            yield

    def number_attempt(self, look: LedgerEntry) -> AttemptNumber:
        """Return which attempt a look is: one more than the earlier ones in its role on enough of its rows.

        One that was had before keeps its number, and so does another evaluation of the same candidate under the same
        claims. Weights that were looked at on some of the rows, and scored the same there, go on where more rows were
        declared.
        """
        looks, near = self.read_entries(), self._find_near_looks(look)
        claimed = [line for line in near if (line["weights"], line["claims"]) == (look.weights, look.claims)]
        claimed = [line for line in claimed if not is_of_other_base(line, look.base)]
        looked = [line for line in claimed if line["rows"] == look.digest]
        same = next((line for line in reversed(looked) if look.scores_digest() in ("", line["scores"])), None)
        if same is not None:
            return derive_attempt(extract_lines(same["id"], near, looks), look.base)
        before = self._find_continued_look(look, claimed, near)
        attempts = map_looks_to_attempts(looks)
        root = attempts[before["id"]] if before else _find_joined_attempt(look, claimed, attempts)
        earlier = count_attempts_before(root, near, look.base, looks)
        continues = before["id"] if before else ""
        stages = (*list_stages(continues, looks), len(look.rows))
        return AttemptNumber(earlier.number, stages, "", continues, earlier.others, earlier.foreign)

    def extract(self, look: LedgerEntry, line: str) -> LedgerExtract:
        """Return the lines that the number of a recorded look follows from."""
        return extract_lines(line, self._find_near_looks(look), self.read_entries())

    def _find_near_looks(self, look: LedgerEntry) -> Sequence[Line]:
        """Return the looks in the same role at enough of the same rows."""
        lines = [line for line in self.read_entries() if line["role"] == look.role]
        near = [line for line in lines if self._is_look_at_same_rows(line, look)]
        _flatten_row_keys.cache_clear()  # of millions of rows they are much to hold
        return near

    def _find_continued_look(self, look: LedgerEntry, claimed: Sequence[Line], near: Sequence[Line]) -> Line | None:
        """Return the last look of the same weights at fewer of the declared rows, which this one continues."""
        continued, found = {line["continues"] for line in near}, None
        for line in claimed if look.most is not None else ():
            if line["most"] != look.most or line["id"] in continued or line["n"] >= len(look.rows):
                continue
            rows = self._read(line["rows"])
            if rows is not None and rows < look.rows and look.scores_digest(rows) in ("", line["scores"]):
                found = line
        return found

    def record(self, standing: AttemptNumber, look: LedgerEntry, suite: Suite, candidate: str, name: str) -> str:
        """Write a look down, unless it stands there already, and return the id of its line.

        Raises UsageError where that is impossible.
        """
        if standing.line:
            return standing.line
        told = {
            "place": suite.place,  # no more of the machine than the name of a folder
            "suite": suite.name, "suite_digest": suite.digest, "candidate": candidate, "eval": name,
            "attempt": standing.number, "role": look.role, "weights": look.weights, "base": look.base,
            "project": look.project, "rows": look.digest, "n": len(look.rows), "scores": look.scores_digest(),
            "most": look.most, "continues": standing.continues, "claims": look.claims, "settings": look.settings,
            "measure": look.measure, "count": look.count,
        }  # fmt: skip
        try:
            if not self.read_lines():
                self._append_ledger_line({"ledger": uuid.uuid4().hex})
            if self._read_intact_rows_bytes(look.digest) is None:
                write_text(self.rows_file(look.digest), look.text)
            return self._append_ledger_line(told)
        except OSError as error:
            raise self._make_write_error(error) from None

    def state(self) -> LedgerState:
        """Return the current state of the ledger."""
        lines = self.read_lines()
        ids, named = [line["id"] for line in lines], {a for line in lines for a in line["after"]}
        begins = tuple(line["id"] for line in lines if "ledger" in line)
        return LedgerState(begins, tuple(i for i in ids if i not in named), tuple(ids), self.empty)

    def read_entries(self) -> list[dict[str, Any]]:
        """Return the lines that are looks, in their order."""
        return [line for line in self.read_lines() if "rows" in line]

    def read_lines(self) -> list[dict[str, Any]]:
        """Read and verify the lines of the ledger.

        Raises UsageError if the file cannot be read, or a line was lost or changed, or is of another format.
        """
        try:
            about = self.path.stat()
            if self._known[0] != (about.st_size, about.st_mtime_ns):
                self._known = (
                    (about.st_size, about.st_mtime_ns),
                    self._parse_and_verify_lines(self.path.read_bytes()),
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"{self.path}: attempts cannot be read: {error.strerror}") from None
        return self._known[1]

    def rows_file(self, rows: str) -> Path:
        """Return the file that holds a set of rows."""
        folder = self.path.with_suffix("") if self.path.suffix else self.path.with_name(f"{self.path.name}.rows")
        return folder / rows

    # -- which looks count -------------------------------------------------------------------------

    def _is_look_at_same_rows(self, line: Mapping[str, Any], look: LedgerEntry) -> bool:
        """Return whether an earlier look was at enough of these rows.

        Rows that every project has count only within one project. Rows that cannot be read count as the same.
        """
        pair = line["rows"], look.digest
        if line["rows"] == look.digest:  # which need not be read
            self._met[pair] = True
        elif pair not in self._met:
            if (theirs := self._read(line["rows"])) is None:
                self.warn(
                    f"{self.rows_file(line['rows'])}: cannot be read, so its attempts count as attempts at these rows"
                )
            self._met[pair] = theirs is None or overlaps(theirs, look.rows)
        return self._met[pair] and (not look.project or line["project"] in ("", look.project))

    def _read(self, rows: str) -> frozenset[Row] | None:
        data = self._read_intact_rows_bytes(rows)
        return None if data is None else frozenset(tuple(line.split()) for line in data.decode().splitlines())

    def _read_intact_rows_bytes(self, rows: str) -> bytes | None:
        """Read the file of a set of rows, if it is intact. None if it is missing or does not match its digest."""
        with suppress(OSError):
            data = self.rows_file(rows).read_bytes()
            return data if hashlib.sha256(data).hexdigest() == rows else None
        return None

    # -- lines -------------------------------------------------------------------------------------

    def _append_ledger_line(self, told: Mapping[str, Any]) -> str:
        after, time = sorted(self.state().heads), datetime.now(UTC).isoformat(timespec="seconds")
        line = {"format": LEDGER_FORMAT, "after": after, "time": time, **told}
        append_line(self.path, {**line, "id": hash_line(line)})
        return hash_line(line)

    def _parse_and_verify_lines(self, data: bytes) -> list[dict[str, Any]]:
        """Parse and verify the lines of a ledger, each once.

        A last line that a kill cut off is dropped: nobody was given its result. Raises UsageError if a line was lost or
        changed, or is of another format.
        """
        # A run of many evals looks after each of them: only what was added since is parsed.
        begins = self._parsed[0] if data.startswith(self._parsed[0]) else b""
        found = dict(self._parsed[1]) if begins else {}
        numbers: dict[str, int] = {}
        for number, text in enumerate(split_json_lines(data[len(begins) :]), begins.count(b"\n") + 1):
            if not text.strip():
                continue
            line: Any = None
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
            if isinstance(line, dict) and line.get("format") != LEDGER_FORMAT:
                what = f"format {line.get('format')}, and this one reads {LEDGER_FORMAT}"
                where = f"{self.path}:{number}: was written by another version of the harness ({what})"
                raise UsageError(f"{where}; move the file away: {LOST_LEDGER_WARNING}")
            valid = has_head(line) and ("ledger" in line or is_look(line))
            if not valid or hash_line(line) != line["id"]:
                where = f"{self.path}:{number}: was changed or truncated after it was written"
                raise UsageError(f"{where}; restore the file, or move it away: {LOST_LEDGER_WARNING}")
            found[line["id"]] = line
            numbers.setdefault(line["id"], number)
        for line in map(found.__getitem__, numbers):
            if lost := [a for a in line["after"] if a not in found]:
                where = f"{self.path}:{numbers[line['id']]}: its previous line {lost[0][:ID_DIGITS]} is missing"
                raise UsageError(f"{where}; restore the file, or move it away: {LOST_LEDGER_WARNING}")
        if found and not any("ledger" in line for line in found.values()):
            raise UsageError(
                f"{self.path}: its first lines are missing; restore the file, or move it away: {LOST_LEDGER_WARNING}"
            )
        if data.endswith(b"\n"):
            self._parsed = data, found
        return list(found.values())

    def _make_write_error(self, error: OSError) -> UsageError:
        return UsageError(f"{self.path}: attempts cannot be recorded: {error.strerror}; nothing was exported")


def describe_attempts(
    verdicts: Sequence[Verdict], spend: bool, standings: Sequence[AttemptNumber], way: str = SUITE_WAY
) -> list[str]:
    """Describe how repeated attempts affect the stated risk, with a `way` out."""
    found = []
    if again := [v for v in verdicts if v.attempt > 1 and v.alpha]:
        most = max(again, key=lambda v: (v.attempt, v.blocking))
        k, alpha = most.attempt, most.alpha or 0.0
        others = max((s.others for s in standings), key=len, default=())
        told = ", ".join(
            f"{place} ({n})" if n > 1 else place for place, n in Counter(others).most_common(MAX_NAMED_SUITES)
        )
        where = f"; previous: {told}" if told else ""
        if spend:
            said = "so that all attempts together keep the risk"
            found.append(f'attempt {k} of "{most.gate}" was tested at alpha {alpha:.2g}, {said}{where}')
        else:
            said = f"{k} attempts at {alpha:g} may add up to a risk of {min(1.0, k * alpha):.2g}"
            found.append(f'attempt {k} of "{most.gate}" on the same rows: {said}; {way}{where}')
    if foreign := max((s.foreign for s in standings), default=0):
        many = "look" if foreign == 1 else "looks"
        found.append(
            f"{foreign} earlier {many} at these rows with models of another base {'is' if foreign == 1 else 'are'} "
            "not counted"
        )
    return found


def _find_joined_attempt(look: LedgerEntry, claimed: Sequence[Line], attempts: Mapping[str, str]) -> str:
    """Return the earlier attempt that a new look joins. Empty if it begins an attempt."""
    key = (look.role, look.weights, look.claims, look.settings)
    same = [line for line in claimed if make_attempt_key(line) == key]
    repeated = any(line["measure"] == look.measure for line in same)
    return attempts[same[-1]["id"]] if look.claims and same and not repeated else ""
