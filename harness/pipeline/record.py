"""What a run found: a record that only grows, and of which those who watch see copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.answers import keys
from harness.collection.plan import Plan
from harness.errors import ExitCode
from harness.pipeline.memory import Memory
from harness.pipeline.preflight import Ready
from harness.records import words
from harness.records.findings import Finding
from harness.records.frozen import isolated
from harness.records.models import ModelRef
from harness.records.run import Change, Exported, Report, Run, ShownRow, Swept, TrainingStep, Trial
from harness.records.samples import Result
from harness.suite.waivers import read_waivers, void

FIELDS = frozenset(f.name for f in fields(Run))


@dataclass(frozen=True)
class Stop:
    """Nothing more can or need be run; what was found so far stands. Without a code the verdicts say how it ends."""

    code: ExitCode | None = None
    why: str | None = None


@dataclass(frozen=True)
class Ending:
    """How a run ended, and what ended it where that was no verdict."""

    exit_code: ExitCode
    problem: str | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class Locked:
    """The lock as it was written before there was a candidate, and the digest of each evaluation's rows then."""

    text: bytes
    rows: Mapping[str, str]


@dataclass(frozen=True)
class Answered:
    """A subject's answers that wait to be marked, or what it raised instead; requests, and those remembered.

    `sent` holds the prompts as they went to the model, by row, where it can tell.
    """

    result: Result | BaseException
    asked: int
    remembered: int
    sent: Mapping[str, str] = field(default_factory=dict)


class Watched(Run):
    """A run as it stood at an event, copied field by field as these are looked at: all of it each time is quadratic."""

    __slots__ = ("_copied",)
    _copied: Callable[[str], Any]

    @classmethod
    def of(cls, run: Run) -> Watched:
        made = cls.__new__(cls)
        made._copied = lambda name: isolated(getattr(run, name))  # no attribute is the run itself
        return made

    def __getattribute__(self, name: str) -> Any:
        known = super().__getattribute__("__dict__")
        if name in FIELDS and name not in known:
            known[name] = self._copied(name)
        return super().__getattribute__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, tuple(getattr(self, f.name) for f in fields(Run))  # what is sent away is a plain one


class Record:
    """What a run found so far: every method adds to it, and a hook that watches gets a copy of what it looks at.

    What listeners write decides nothing: nobody reads a copy, and verdicts are those of the adjudicator.
    """

    def __init__(self, collection: Plan) -> None:
        suite = collection.suite
        self.hook = collection.plugins.hook
        self.started = datetime.now(UTC)
        waivers, versions = read_waivers(suite.path), keys.versions()
        self.clock = time.monotonic()
        self.about = Run(
            suite.name,
            str(suite.path),
            suite.digest,
            suite.about.seed,
            suite.about.alpha,
            suite.model.path,
            self.started.isoformat(timespec="seconds"),
            versions[keys.CORE],
            gates=sum(len(collection.gates(c)) for c in collection.candidates),
            shipping=len({e.candidate for e in suite.exports} & {*collection.candidates}),
            items=tuple(i.id for i in collection.items),
            deselected=collection.deselected,
            private=tuple(e.name for e in suite.evals if e.private),
            selecting=collection.selecting,
            waivers=waivers,
            versions=versions,
        )
        self.warnings = [*collection.warnings, *void(waivers, suite, self.started.date())]
        self.reports: list[Report] = []
        self.findings: list[Finding] = []
        self.exports: list[Exported] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, str] = {}  # of every subject's weights
        self.seconds: list[tuple[str, float]] = []  # of stages, as they ended
        self.memory = Memory()
        self.training: tuple[TrainingStep, ...] = ()
        self.rows: tuple[ShownRow, ...] = ()
        self.changes: tuple[Change, ...] = ()
        self.compared = 0  # results, of which the changes tell
        self.folders: list[Path] = []
        self.sweeps: list[Swept] = []  # the same sweep, trial by trial
        self.choices: list[str] = []
        self.conclusions: list[tuple[str, ...]] = []  # the last are those of all that was found
        self.endings: list[Ending] = []
        self.locks: list[Locked] = []  # the last was written when it was known which rows leak
        self.candidates: dict[str, ModelRef] = {}
        self.unmade: dict[str, str] = {}  # copies that there are none of, and why
        self.answers: dict[tuple[str, str], Answered] = {}  # by subject and eval

    def shown(self) -> Run:
        """Return the run as it stands."""
        ending = self.endings[-1] if self.endings else Ending(ExitCode.INTERNAL)
        stages: dict[str, float] = {}
        for name, seconds in self.seconds:
            stages[name] = stages.get(name, 0.0) + seconds
        return replace(
            self.about,
            folder=str(self.folders[-1]) if self.folders else "",
            exit_code=ending.exit_code,
            reports=[*self.reports],
            exports=[*self.exports],
            warnings=[*self.warnings],
            conclusions=[*self.conclusions[-1]] if self.conclusions else [],
            flags=[*self.findings],
            sweep=self.sweeps[-1] if self.sweeps else None,
            facts={**self.facts},
            digests={**self.digests},
            stages=stages,
            memory={**self.memory.peaks},
            training=self.training,
            shown=self.rows,
            changes=self.changes,
            problem=ending.problem,
            traceback=ending.traceback,
        )

    def freeze(self) -> Run:
        """Return the run as it ended."""
        return replace(self.shown(), seconds=time.monotonic() - self.clock)

    def tell(self, hook: str, **records: Any) -> None:
        """Call a hook that watches; it gets copies, for what a listener writes must decide nothing."""
        getattr(self.hook, hook)(run=Watched.of(self.shown()), **isolated(records))

    # -- what is added, and told -------------------------------------------------------------------

    def begin(self) -> None:
        self.tell("harness_run_start")

    def finish(self, run: Run) -> None:
        """Call the hook of a run's end with how it ended."""
        self.hook.harness_run_finish(run=isolated(run))

    def announce(self, stage: str, detail: str = "") -> None:
        """Call the hook of a stage's beginning."""
        self.tell("harness_stage", stage=stage, detail=detail)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Announce a stage, and add its seconds and the peak of its memory when it ends."""
        self.announce(name, detail)
        begun = time.monotonic()
        try:
            with self.memory.stage(name):
                yield
        finally:
            self.seconds.append((name, time.monotonic() - begun))

    def report(self, report: Report) -> None:
        """Add what became of an item, and a warning for each gate that the sizes of its slices decided."""
        self.reports.append(report)
        told = [(v, words.sizes(v)) for v in report.verdicts]
        self.warnings += [f'gate "{v.gate}" on {v.candidate}: {sizes}' for v, sizes in told if sizes]
        self.tell("harness_report", report=report)

    def finding(self, flag: Finding) -> None:
        self.findings.append(flag)
        self.tell("harness_flag", flag=flag)

    def trial(self, sweep: Swept, trial: Trial) -> None:
        """Add a trial; the sweep holds it and those before it."""
        self.sweeps.append(sweep)
        self.tell("harness_trial", trial=trial)

    # -- what is added -----------------------------------------------------------------------------

    def opened(self, folder: Path, model: str, opened: Ready) -> None:
        """Add what preflight opened, and the folder that reports go to."""
        self.folders.append(folder)
        self.facts["model"] = {"path": model, **opened.source.facts}
        others = {name: s.digest for name, s in opened.others.items()}
        self.digests |= {"base": opened.source.digest, **others}
        self.digests |= {name: ref.digest for name, ref in opened.releases.items()}

    def locked(self, lock: Locked) -> None:
        self.locks.append(lock)

    def warn(self, *warnings: str) -> None:
        self.warnings += warnings

    def fact(self, name: str, told: Mapping[str, Any]) -> None:
        """Add what a person would ask of a model or a training; of a sweep the last told stands."""
        self.facts[name] = dict(told)

    def add(
        self,
        training: Iterable[TrainingStep] = (),
        shown: Iterable[ShownRow] = (),
        changes: Iterable[Change] = (),
    ) -> None:
        """Add steps of a training, training rows as the model sees them, what changed between models.

        Of each the last told stand.
        """
        self.training = tuple(training) or self.training
        self.rows = tuple(shown) or self.rows
        self.changes = tuple(changes) or self.changes

    def swept(self, sweep: Swept) -> None:
        self.sweeps.append(sweep)

    def choice(self, why: str) -> None:
        self.choices.append(why)

    def made(self, ref: ModelRef) -> None:
        """Add a candidate."""
        self.candidates[ref.name], self.digests[ref.name] = ref, ref.digest

    def not_made(self, name: str, why: str) -> None:
        self.unmade[name] = why

    def answered(self, subject: str, evaluation: str, answers: Answered) -> None:
        self.answers[subject, evaluation] = answers

    def exported(self, exported: Exported) -> None:
        self.exports.append(exported)

    def concluded(self, conclusions: Iterable[str]) -> None:
        self.conclusions.append(tuple(conclusions))

    def ended(self, ending: Ending) -> None:
        self.endings.append(ending)

    def skipped(self, reports: Iterable[Report]) -> None:
        """Add items that the run did not come to; nobody watches these."""
        self.reports += reports
