"""How often a question was put to the same rows: an append-only ledger, since seven attempts at 5 % are not one.

A question is a gate without its threshold, for a claim that is loosened is still asked of rows that were looked at.
The recipe is no part of it: trying another one is what an attempt is.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.evidence import digest_of
from harness.gate import Gate, Verdict
from harness.paths import append_line
from harness.result import Result, Score
from harness.suite import Eval, Suite


@dataclass(frozen=True)
class Attempt:
    """One look at a gate's rows: which question, what was seen, and the how-manieth look it is, from 1."""

    question: str
    seen: str
    number: int
    known: bool  # the same model with the same answers was judged before


class Ledger:
    """The attempts in one file, read anew at every question: other runs write it too."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self.warn = path, warn
        self.told: set[int] = set()  # lines that cannot be read, told once

    def attempt(self, suite: Suite, gate: Gate, spec: Eval, candidate: Result, baseline: Result | None) -> Attempt:
        """Return which attempt it is to judge a candidate by a gate, on what was answered."""
        question = question_of(suite, gate, spec, candidate)
        seen = seen_of(candidate, baseline, gate.metric_name)
        earlier = list(dict.fromkeys(line["seen"] for line in self.lines() if line["question"] == question))
        known = seen in earlier
        return Attempt(question, seen, earlier.index(seen) + 1 if known else len(earlier) + 1, known)

    def record(self, attempt: Attempt, suite: Suite, verdict: Verdict) -> None:
        """Write an attempt down, unless nothing new was seen. Raises UsageError where that is impossible."""
        if attempt.known:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": suite.name,
            "suite_digest": suite.digest,
            "gate": verdict.gate,
            "candidate": verdict.candidate,
            "digest": verdict.digest,
            "outcome": verdict.outcome,
            "attempt": attempt.number,
            "question": attempt.question,
            "seen": attempt.seen,
        }
        try:
            append_line(self.path, line)
        except OSError as error:
            raise UsageError(f"{self.path}: attempts cannot be written down: {error.strerror}") from None

    def lines(self) -> list[dict[str, Any]]:
        """Return what was written; a line that cannot be read is told, since an attempt is missing then."""
        if not self.path.is_file():
            return []
        found = []
        for number, text in enumerate(self.path.read_text("utf-8", errors="replace").splitlines(), 1):
            try:
                line = json.loads(text)
                line["seen"], line["question"]
                found.append(line)
            except (ValueError, TypeError, KeyError):
                if number not in self.told:
                    self.warn(f"{self.path}:{number}: cannot be read; the attempts that are told may be too few")
                self.told.add(number)
        return found


def spent(alpha: float, attempt: int) -> float:
    """Return the level of attempt k: alpha·6/(π²k²), which sums to alpha over all attempts there may ever be."""
    return alpha * 6 / (math.pi**2 * attempt**2)


def attempts_said(verdicts: Sequence[Verdict], spend: bool) -> list[str]:
    """Say what repeated attempts mean for the stated risk, once for all gates."""
    again = [v for v in verdicts if v.attempt > 1 and v.alpha]
    if not again:
        return []
    most = max(again, key=lambda v: (v.attempt, v.blocking))
    k, alpha = most.attempt, most.alpha or 0.0
    if spend:
        return [
            f'attempt {k} of "{most.gate}" was tested at alpha {alpha:.2g}, so that all attempts together keep the risk'
        ]
    risk = min(1.0, k * alpha)
    return [
        f'attempt {k} of "{most.gate}" on the same rows: {k} attempts at {alpha:g} may add up to a risk of {risk:.2g}; '
        'choose on a select split (--select), or write attempts = "spend"'
    ]


def question_of(suite: Suite, gate: Gate, spec: Eval, candidate: Result) -> str:
    """Name what is asked: of which rows, by which evaluator and metric, of which candidate, against what."""
    asks: Mapping[str, Any] = {
        "suite": suite.name,
        "rows": candidate.rows,
        "candidate": candidate.subject,
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
    """Name what was seen: the candidate's weights, and what both models scored."""
    total = hashlib.sha256(candidate.digest.encode())
    for result in (candidate, baseline):
        for scores in (_numbers(result.scores, metric),) if result else ():
            total.update(array("d", scores).tobytes())
    return total.hexdigest()


def _numbers(scores: Sequence[Score], metric: str) -> list[float]:
    """Return the metric's value on every row, and every value of a row that has none of it."""
    found: list[float] = []
    for s in scores:
        found += [s.values[metric]] if metric in s.values else sorted(s.values.values())
    return found
