"""Flip rates measured by `harness aa`, in SUITE.aa.json beside the suite.

`harness plan` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from harness.artifacts.digests import digest_value
from harness.collection.collection import Collection
from harness.errors import UsageError
from harness.files import read_text, reporting_write_errors, write_text
from harness.records.models import ModelRef
from harness.records.samples import rows_digest
from harness.reports.report_json import from_json
from harness.suite.waivers import CLAIM_KEYS
from harness.texts.json_text import MALFORMED, dumps, read_json

RECORD_SUFFIX = ".aa.json"  # behind the name of a suite
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RowFlips:
    """Row flips of a metric between equal runs of the base.

    `share` is that of rows with another value between two runs, with 95 % bounds `low` and `high`; `in_any` is that of
    rows with another value in any run. `discordance` is the mean squared difference between two.
    """

    metric: str
    rows: int
    values: tuple[float, ...]
    share: float
    low: float = 0.0
    high: float = 1.0
    in_any: float = 0.0
    discordance: float = 0.0


@dataclass(frozen=True)
class VerdictFlips:
    """Shares of a gate's outcomes on pairs of equal models.

    `wrong` is the share of those that its risk `alpha` limits; None for a claim about one model alone. `at_margin` is
    the share that pass once rows are broken until the loss is the margin, which alpha limits too. `flips` is the chance
    that two such pairs get different verdicts, with 95 % bounds.
    """

    gate: str
    alpha: float
    pairs: int
    outcomes: Mapping[str, float]
    wrong: float | None
    at_margin: float | None = None
    flips: float = 0.0
    low: float = 0.0
    high: float = 1.0

    @property
    def is_within_alpha(self) -> bool:
        """Return whether the error rate is within alpha. Allows three standard errors."""
        return max(self.wrong or 0.0, self.at_margin or 0.0) <= self.alpha + 3 * math.sqrt(
            self.alpha * (1 - self.alpha) / self.pairs
        )


@dataclass(frozen=True)
class MeasuredEval:
    """Equal runs of one evaluation: what varied between them, and what came of it; `key` tells rows and options."""

    key: str
    runs: int
    sources: tuple[str, ...]
    metrics: tuple[RowFlips, ...]
    gates: tuple[VerdictFlips, ...]


@dataclass(frozen=True)
class AaRecord:
    """Measured evaluations of a suite, for its current collection and base."""

    collection: Collection
    base: ModelRef
    measured: Mapping[str, MeasuredEval] = field(default_factory=dict)

    def make_key(self, name: str) -> str:
        """Digest an evaluation's rows and options, and the base as loaded."""
        task, model = self.collection.tasks[name], self.collection.suite.model
        how = {key: getattr(task.spec, key) for key in CLAIM_KEYS}
        loaded = [model.use, self.base.digest, dict(self.base.options)]
        return digest_value([rows_digest(task.samples or ()), how, loaded])

    @cached_property
    def current(self) -> Mapping[str, MeasuredEval]:
        """The measured evaluations that are still those of the suite."""
        there = {name: one for name, one in self.measured.items() if name in self.collection.tasks}
        return {name: one for name, one in there.items() if one.key == self.make_key(name)}

    def find_metric(self, name: str, metric: str) -> RowFlips | None:
        """Return a metric's flips, if measured on exactly these rows."""
        metrics = self.current[name].metrics if name in self.current else ()
        return next((flips for flips in metrics if flips.metric == f"{name}.{metric}"), None)


def record_file(suite: Path) -> Path:
    """Return the path of a suite's `harness aa` record."""
    return suite.with_name(f"{suite.stem}{RECORD_SUFFIX}")


def read_aa_record(collection: Collection, base: ModelRef) -> AaRecord:
    """Read the record beside a suite, empty if there is none. Raises UsageError if it cannot be read."""
    path = record_file(collection.suite.path)
    if not path.is_file():
        return AaRecord(collection, base)
    try:
        data = read_json(read_text(path))
        if data["format"] != FORMAT_VERSION:
            raise ValueError("is of another format")
        measured = {str(name): from_json(MeasuredEval, one, name) for name, one in data["evals"].items()}
    except MALFORMED:
        what = "is not a record of this version's harness aa"
        raise UsageError(f"{path}: {what}; remove it, and run harness aa {collection.suite.path}") from None
    return AaRecord(collection, base, measured)


def write_aa_record(record: AaRecord) -> Path:
    """Write a record beside its suite. Raises UsageError where that is impossible."""
    path = record_file(record.collection.suite.path)
    with reporting_write_errors(path):
        write_text(
            path, dumps({"format": FORMAT_VERSION, "evals": {n: asdict(one) for n, one in record.measured.items()}})
        )
    return path
