"""What a run found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import ExitCode
from harness.records.findings import Finding
from harness.records.gates import Outcome, Verdict
from harness.records.waivers import Waiver


@dataclass(frozen=True)
class Report:
    """One item done: its metrics, its verdicts, its rows and seconds; `error` when it could not be evaluated."""

    id: str
    subject: str
    eval: str
    outcome: Literal["done", "error", "skipped"]
    metrics: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    slices: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # column -> value -> metric
    better: dict[str, str] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    n: int = 0
    of: int = 0  # rows there are; fewer were asked where the gates were decided early
    seconds: float = 0.0
    asked: int = 0  # requests to the model, of which `remembered` were answered in an earlier run or evaluation
    remembered: int = 0
    error: str | None = None
    traceback: str | None = None
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """One `[[export]]`: where it was written, or why it was not."""

    use: str
    candidate: str
    to: str
    written: bool
    reasons: tuple[str, ...] = ()
    digest: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Trial:
    """One value of a sweep: its metric on the select rows, and the change from the trial before with its p-value.

    Bounds hold at alpha each; they are None where there is nothing to compare or nothing varies. A change is in the
    metric's units, of a perplexity a share; below zero is better where lower is. `why` is said of the change.
    `seconds` are those of its training, whenever that was, and None where nobody noted them; `parameters` those
    it trained.
    """

    value: Any
    metric: float
    lower: float | None = None
    upper: float | None = None
    change: float | None = None
    change_lower: float | None = None
    change_upper: float | None = None
    p: float | None = None
    better: bool = True
    why: str = ""
    seconds: float | None = None
    reused: bool = False
    parameters: int | None = None
    digest: str = ""


@dataclass
class Swept:
    """A sweep: the trials that were made of the `values` there are, and the value that was chosen, and why."""

    key: str  # TABLE.OPTION
    by: str  # EVAL.METRIC
    alpha: float
    rows: int
    scale: str
    values: list[Any]
    trials: list[Trial] = field(default_factory=list)
    chosen: Any = None
    why: str = ""


@dataclass
class Run:
    """One call of `harness run`. `facts` holds what a person would ask of the model and the training."""

    suite: str
    path: str
    digest: str
    seed: int
    alpha: float
    model: str
    started: str  # UTC, ISO 8601
    harness: str
    gates: int = 0  # verdicts that the suite asks of its candidates
    items: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    selecting: bool = False  # on the select splits, so that nothing was confirmed
    folder: str = ""
    seconds: float = 0.0
    exit_code: int = ExitCode.INTERNAL
    reports: list[Report] = field(default_factory=list)
    exports: list[Exported] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    waivers: list[Waiver] = field(default_factory=list)  # of the suite, in force or not
    conclusions: list[str] = field(default_factory=list)  # what follows from the verdicts, in words
    flags: list[Finding] = field(default_factory=list)  # what the checks found
    sweep: Swept | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # of every subject's weights
    versions: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)  # seconds
    problem: str | None = None
    traceback: str | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        return [v for r in self.reports for v in r.verdicts]

    def count(self, outcome: Outcome) -> int:
        return sum(v.outcome is outcome for v in self.verdicts)
