"""The results of a run so far, and memory peaks by stage. Stages write them, and listeners see copies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.answers import keys
from harness.collection.collection import Collection
from harness.errors import ExitCode
from harness.records import verdict_text
from harness.records.copies import detach_copy
from harness.records.findings import Finding
from harness.records.models import ModelRef
from harness.records.run import ItemResult, Run, Trial
from harness.records.samples import Result
from harness.reports.events import Events
from harness.suite.waivers import invalid_waivers, read_waivers

FIELDS = frozenset(f.name for f in fields(Run))
PROCESS = Path("/proc/self")
PEAK = "5"  # written to clear_refs: VmHWM begins anew (proc(5), Linux 4.0)


@dataclass(frozen=True)
class StageStop:
    """A stop of the run that keeps all results so far. Without a code the verdicts decide how the run ends."""

    code: ExitCode | None = None
    why: str | None = None


@dataclass(frozen=True)
class RunEnding:
    """The exit code of a run, and the problem that ended it. `problem` is None if a verdict did."""

    exit_code: ExitCode
    problem: str | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class PendingAnswers:
    """A subject's answers that await marking, or the exception it raised.

    Also counts its requests and cache hits.
    """

    result: Result | BaseException
    requests: int
    cache_hits: int
    sent: Mapping[str, str]  # the prompts as they went to the model, by row, where it can tell


class RunSnapshot(Run):
    """A lazy copy of a run at an event.

    Each field is copied when it is looked at: all of them at every event would take quadratic time.
    """

    __slots__ = ("_copied",)
    _copied: Callable[[str], Any]

    @classmethod
    def of(cls, run: Run) -> RunSnapshot:
        made = cls.__new__(cls)
        made._copied = lambda name: detach_copy(getattr(run, name))  # no attribute is the run itself
        return made

    def __getattribute__(self, name: str) -> Any:
        known = super().__getattribute__("__dict__")
        if name in FIELDS and name not in known:
            known[name] = self._copied(name)
        return super().__getattribute__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, tuple(getattr(self, f.name) for f in fields(Run))  # what is sent away is a plain one


class Record:
    """The results of a run so far.

    Stages write into `run`, and a hook gets copies of the fields that it looks at. Listeners decide nothing by writing:
    copies are never read back, and verdicts are the adjudicator's.
    """

    def __init__(self, collection: Collection) -> None:
        suite = collection.suite
        self.hook = collection.plugins.hook
        self.events = Events()
        self.started = datetime.now(UTC)
        waivers, versions = read_waivers(suite.path), keys.library_versions()
        self.clock = time.monotonic()
        self.memory = MemoryPeaks()
        self.run = Run(
            suite.name, str(suite.path), suite.digest, suite.header.seed, suite.header.alpha, suite.model.path,
            self.started.isoformat(timespec="seconds"), versions[keys.CORE],
            gates=sum(len(collection.gates(c)) for c in collection.candidates),
            shipping=len({e.candidate for e in suite.exports} & {*collection.candidates}),
            items=tuple(i.id for i in collection.items), deselected=collection.deselected,
            private=tuple(e.name for e in suite.evals if e.private), selecting=collection.selecting,
            warnings=[*collection.warnings, *invalid_waivers(waivers, suite, self.started.date())], waivers=waivers,
            versions=versions, memory=self.memory.peaks, runs=dict(collection.runs), readings=collection.readings,
        )  # fmt: skip
        self.warn = self.run.warnings.append  # for what is called and may have to
        self.ending: RunEnding | None = None
        self.choices: list[str] = []  # in words, the first of the conclusions
        self.compared = 0  # results, of which the changes tell
        self.lock = b""  # as it was written last: before there was a candidate, when it was known which rows leak
        self.locked_rows: Mapping[str, str] = {}  # the digest of each evaluation's rows then
        self.candidates: dict[str, ModelRef] = {}
        self.unmade: dict[str, str] = {}  # copies that there are none of, and why
        self.answers: dict[tuple[str, str], PendingAnswers] = {}  # by subject and eval

    def snapshot(self) -> Run:
        """Return the run as it stands."""
        grown: dict[str, Any] = {k: copy(v) for k, v in vars(self.run).items() if isinstance(v, (list, dict))}
        return replace(self.run, **grown, **vars(self.ending or RunEnding(ExitCode.INTERNAL)))

    def call_hook(self, hook: str, **records: Any) -> None:
        """Call a hook with copies of the run and the records. A listener must not be able to decide anything."""
        getattr(self.hook, hook)(run=RunSnapshot.of(self.snapshot()), **detach_copy(records))

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Announce a stage, and record its seconds and peak memory."""
        self.call_hook("harness_stage", stage=name, detail=detail)
        begun = time.monotonic()
        try:
            with self.memory.stage(name):
                yield
        finally:
            self.run.stages[name] = self.run.stages.get(name, 0.0) + (time.monotonic() - begun)

    def add(self, one: ItemResult | Finding | Trial) -> None:
        """Record a report, a finding or a trial, and notify listeners.

        A report brings a warning for each gate that the sizes of its slices decided.
        """
        if isinstance(one, ItemResult):
            self.run.results.append(one)
            told = [(v, verdict_text.format_warning(v)) for v in one.verdicts]
            self.run.warnings += [f'gate "{v.gate}" on {v.candidate}: {sizes}' for v, sizes in told if sizes]
            self.call_hook("harness_item_finish", item=one)
        elif isinstance(one, Finding):
            self.run.findings.append(one)
            if one.severity == "error" and one.ignored is not None and one.waiver is None:
                way = f"harness waive {one.code} --suite {self.run.path} --by NAME --reason TEXT --until YYYY-MM-DD"
                said = f"{one.code} was ignored without a waiver; {way}"
                if said not in self.run.part:
                    self.run.part = "; ".join(filter(None, [self.run.part, said]))
            self.call_hook("harness_finding", finding=one)
        else:
            assert self.run.sweep
            self.run.sweep = replace(self.run.sweep, trials=[*self.run.sweep.trials, one])
            self.call_hook("harness_trial", trial=one)

    def add_candidate(self, ref: ModelRef) -> None:
        """Add a candidate."""
        self.candidates[ref.name], self.run.digests[ref.name] = ref, ref.digest


class MemoryPeaks:
    """Peak memory by stage, in bytes.

    A stage inside another counts for both. If the system cannot reset a peak, a stage has one only if it rose in it.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._open: list[dict[str, int]] = []  # the peaks of the stages that are open, so far

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the peak memory of a stage. A name that is measured twice keeps the higher peak."""
        self._record_and_reset_peaks()
        self._open.append({})
        before = None if _reset_peaks() else _read_peak_resident_bytes()
        try:
            yield
        finally:
            self._record_and_reset_peaks()
            found = self._open.pop()
            if before is not None and found.get("", 0) <= before:
                found.pop("", None)
            for where, peak in found.items():
                key = f"{name} ({where})" if where else name
                self.peaks[key] = max(peak, self.peaks.get(key, 0))

    def _record_and_reset_peaks(self) -> None:
        """Add the current peaks to every open stage, and reset them."""
        now = peak_memory()
        for peaks in self._open:
            peaks |= {where: max(peak, peaks.get(where, 0)) for where, peak in now.items() if peak}
        _reset_peaks()


def peak_memory() -> dict[str, int]:
    """Return the most bytes held since the peak began: by this process, and by PyTorch of all GPUs together."""
    torch = _find_torch_on_gpus()
    cuda = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) if torch else 0
    return {"": _read_peak_resident_bytes(), "cuda": int(cuda)}


def _reset_peaks() -> bool:
    """Let the peaks begin anew; return whether the process' does."""
    if torch := _find_torch_on_gpus():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
    try:
        (PROCESS / "clear_refs").write_text(PEAK, "ascii")
    except OSError:
        return False
    return True


def _read_peak_resident_bytes() -> int:
    """Return the peak resident memory of the process since its reset. It is in bytes, and 0 if it is unknown."""
    try:
        lines = (PROCESS / "status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError):
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _find_torch_on_gpus() -> ModuleType | None:
    """Return PyTorch if it already computes on a GPU. It is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None
