"""The results of a run as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness.errors import ExitCode
from harness.records.changes import Change
from harness.records.findings import Finding
from harness.records.outcomes import Outcome
from harness.records.parts.part import Part
from harness.records.scales import Scaled
from harness.records.verdict_text import format_why
from harness.records.verdicts import Verdict
from harness.records.waivers import Waiver

NAME = re.compile(r"[\w-][\w.-]*")  # of a suite, a subject, an eval or a copy: files are called by it


def is_plain_name(name: str) -> bool:
    """Return whether a name is safe as a file name. A safe name cannot point outside its folder."""
    return bool(NAME.fullmatch(name)) and len(name.encode("utf-8", "replace")) < 256


@dataclass(frozen=True)
class ItemResult:
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
    requests: int = 0  # requests to the model, of which `remembered` were answered in an earlier run
    cache_hits: int = 0
    error: str | None = None
    traceback: str | None = None
    caveats: tuple[str, ...] = ()
    finish_reasons: dict[str, int] = field(default_factory=dict)  # how answers ended, where the loader tells


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
    metric's units, of a perplexity a share; below zero is better where lower is. `why` is said of the change. `seconds`
    are those of its training, whenever that was, and None where nobody noted them; `parameters` those it trained.
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
    runs: tuple[float, ...] = ()  # the metric of each seed, where there are several; `metric` is of their mean


@dataclass
class Swept(Scaled):
    """A sweep: the trials that were made of the `values` there are, and the value that was chosen, and why.

    By `rule` "best" a trial is compared with the best before it, and better if its mean is.
    """

    key: str  # TABLE.OPTION
    by: str  # EVAL.METRIC
    alpha: float
    rows: int
    scale: str
    values: list[Any]
    trials: list[Trial] = field(default_factory=list)
    chosen: Any = None
    why: str = ""
    rule: str = "step"


@dataclass(frozen=True)
class TrainingStep:
    """A training after a step (from 1): seconds and tokens trained so far, epochs, losses in nats per token.

    `loss` is of the step's own batch, `validation` of the rows held out, where they were measured after it.
    """

    step: int = 0
    seconds: float = 0.0
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    validation: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Segment:
    """A part of a training row as the model sees it. `trained` is true if its tokens count in the loss."""

    text: str = ""
    trained: bool = False


@dataclass(frozen=True)
class ShownRow:
    """A training row as the model sees it: its number over all sources (from 1), and its parts."""

    number: int = 0
    segments: tuple[Segment, ...] = ()


@dataclass
class Run:
    """One call of `harness run`. `facts` holds what a person would ask of the model and the training.

    `memory` is the peak of a stage in bytes: what the process held, and under "STAGE (cuda)" what PyTorch held of the
    GPUs. `training` has no step where the trainer told of none.
    """

    suite: str
    path: str
    digest: str
    seed: int
    alpha: float
    model: str
    started: str  # UTC, ISO 8601
    harness: str
    gates: int = 0  # verdicts that the suite asks of its candidates
    shipping: int = 0  # candidates that may ship, each at the risk of every gate
    items: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    private: tuple[str, ...] = ()  # evals whose rows go into nothing that is sent away
    selecting: bool = False  # on the select splits, so that nothing was confirmed
    part: str = ""  # why nothing ships whatever the verdicts: a part of the suite was run, or an error was ignored
    invocation: dict[str, Any] = field(default_factory=dict)  # what the command said beside the suite, by flag
    folder: str = ""
    seconds: float = 0.0
    exit_code: int = ExitCode.INTERNAL
    results: list[ItemResult] = field(default_factory=list)
    exports: list[Exported] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    readings: tuple[str, ...] = ()
    """What columns that no table of the suite declares were taken for."""
    waivers: list[Waiver] = field(default_factory=list)  # of the suite, in force or not
    conclusions: list[str] = field(default_factory=list)  # what follows from the verdicts, in words
    warranted: list[str] = field(default_factory=list)  # those of them that say whether tuning was worth it
    findings: list[Finding] = field(default_factory=list)  # what the checks found
    sweep: Swept | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # of every subject's weights
    runs: dict[str, int] = field(default_factory=dict)  # seeds of a recipe's models beside the one that ships
    versions: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)  # seconds
    memory: dict[str, int] = field(default_factory=dict)
    training: tuple[TrainingStep, ...] = ()
    shown_rows: tuple[ShownRow, ...] = ()  # training rows, of the beginning, the middle and the end
    changes: tuple[Change, ...] = ()  # from a candidate to what was made of it
    problem: str | None = None
    traceback: str | None = None
    edited: bool = False  # its report was changed after a run wrote it

    @property
    def verdicts(self) -> list[Verdict]:
        return [v for r in self.results for v in r.verdicts]

    @property
    def is_of_scored_rows(self) -> bool:
        """Return whether another tool scored its rows: no weights were seen, and nothing can ship."""
        return any("binding" in told for told in self.facts.values() if isinstance(told, dict))

    def find_odd_name(self) -> str:
        """Return a name that is unsafe as a file name.

        The run's suite, subjects and evals are searched. Empty if all names are safe.
        """
        names = [self.suite, *self.private, *(n for r in self.results for n in (r.subject, r.eval))]
        names += [n for v in self.verdicts for n in (v.candidate, v.versus) if n]
        names += [v.metric.partition(".")[0] for v in self.verdicts if v.metric]
        names += [n for c in self.changes for n in (c.before, c.after, c.eval) if n]
        return next((f"{name!r:.60}" for name in names if not is_plain_name(name)), "")

    @property
    def passed_over(self) -> dict[str, Waiver]:
        """The waivers of ignored errors, by finding code."""
        return {f.code: f.waiver for f in self.findings if f.severity == "error" and f.waiver}

    def count(self, outcome: Outcome) -> int:
        return sum(v.outcome is outcome for v in self.verdicts)

    def nameless(self, verdict: Verdict) -> Verdict:
        """Return a verdict, without row ids and names of slices, which are values, if its evaluation is private."""
        if verdict.metric.partition(".")[0] not in self.private:
            return verdict
        parts = {name: part.anonymize() if isinstance(part, Part) else part for name, part in verdict.parts.items()}
        hidden = replace(verdict, won=(), lost=(), parts=parts)
        return replace(hidden, why=format_why(hidden) or hidden.why)

    def sendable(self) -> Run:
        """Return the run without ids, quotes and slice values of private rows."""
        results = [
            replace(
                result,
                verdicts=tuple(map(self.nameless, result.verdicts)),
                slices={} if result.eval in self.private else result.slices,
            )
            for result in self.results
        ]
        changes = tuple(replace(c, won_ids=(), lost_ids=()) if c.eval in self.private else c for c in self.changes)
        findings = [replace(f, rows={}, evidence=()) for f in self.findings] if self.private else self.findings
        return replace(self, results=results, changes=changes, findings=findings)

    def rows(self, evaluation: str) -> list[dict[str, Any]]:
        """Return an evaluation's rows with every subject's answers.

        They are read from the run's folder and joined by id. Raises UsageError if it holds none.
        """
        from harness.reports import notebook

        return notebook.run_rows(self, evaluation)

    def frame(self, evaluation: str) -> Any:
        """Return `rows` as a pandas DataFrame. Raises UsageError where pandas is not installed."""
        from harness.reports import notebook

        return notebook.run_frame(self, evaluation)

    def _repr_html_(self) -> str:
        from harness.reports import notebook

        return notebook.run_html(self)
