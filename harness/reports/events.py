"""The event log of a run, as JSON Lines.

Editors and scripts follow a run by it; `read_events` turns it back into progress.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from harness.artifacts.folders import ForeignFolder, parse_record
from harness.errors import UsageError
from harness.files import open_for_writing, split_json_lines, try_lock
from harness.hookspec import hookimpl
from harness.records.findings import Finding
from harness.records.models import Progress
from harness.records.run import ItemResult, Run, Trial
from harness.records.verdicts import Verdict
from harness.reports.report_json import from_json, relative_paths, require_wordable
from harness.texts.counts import count_noun
from harness.texts.json_text import json_safe
from harness.texts.numbers import format_duration

MAX_LOG_BYTES = 1 << 27  # of a log, which is read as a whole
FORMAT_VERSION = 1  # of a line; raised when a reader of an older one would misread it
EVENTS = "events.jsonl"  # in a run's folder
PROGRESS_INTERVAL_S = 1.0  # seconds between two signs of life of one kind that are written
START_KEYS = ("suite", "path", "digest", "seed", "alpha", "model", "started", "harness", "items", "gates", "shipping")


class Events:
    """Listener that writes events to a file or the run's folder.

    Each line is written as soon as its event occurs; lines from before the folder exists wait for it. The file in the
    folder is locked while the run goes on, since a lock ends with its process. Raises UsageError if a named file cannot
    be written. After a later write error nothing more is written: the log decides nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.waiting = path, list[str]()
        self.run: Run | None = None
        self.last: tuple[str, float] = "", 0.0
        try:
            self.file: IO[str] | None = _open_events(path) if path else None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f'--events "{path}": cannot be written: {why}; name a writable file') from None

    def close(self) -> None:
        """End the file."""
        if self.file:
            self.file.close()

    @hookimpl
    def harness_run_start(self, run: Run) -> None:
        self.write("run_start", run, **{name: getattr(run, name) for name in START_KEYS})

    @hookimpl
    def harness_stage(self, run: Run, stage: str, detail: str) -> None:
        self.write("stage", run, stage=stage, detail=detail)

    @hookimpl
    def harness_progress(self, progress: Progress) -> None:
        what, at = self.last
        if (
            progress.what != what
            or progress.remark
            or progress.done >= progress.total
            or time.monotonic() - at > PROGRESS_INTERVAL_S
        ):
            self.last = progress.what, time.monotonic()
            self.write("progress", **asdict(progress))

    @hookimpl
    def harness_item_finish(self, run: Run, item: ItemResult) -> None:
        told = {key: value for key, value in asdict(item).items() if key not in ("verdicts", "traceback")}
        self.write("report", run, **told)
        for verdict in item.verdicts:
            self.write("verdict", run, **asdict(verdict))

    @hookimpl
    def harness_finding(self, run: Run, finding: Finding) -> None:
        self.write("finding", run, **asdict(finding))

    @hookimpl
    def harness_trial(self, run: Run, trial: Trial) -> None:
        self.write("trial", run, **asdict(trial))

    @hookimpl(trylast=True)
    def harness_run_finish(self, run: Run) -> None:
        told = {"exit_code": int(run.exit_code), "problem": run.problem, "conclusions": run.conclusions}
        self.write("run_finish", run, **told, folder=run.folder, seconds=run.seconds)

    def write(self, event: str, run: Run | None = None, **told: Any) -> None:
        """Write an event as one JSON line, with secrets redacted.

        In a run's folder its paths are made relative as well.
        """
        self.run = run or self.run
        line = {
            "format": FORMAT_VERSION,
            "event": event,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **told,
        }
        if self.path is None and self.run:
            line = relative_paths(line, self.run)
        self.waiting.append(json.dumps(json_safe(line), ensure_ascii=False, default=str, allow_nan=False) + "\n")
        try:
            if self.file is None and run and run.folder:
                self.file = _open_events(Path(run.folder) / EVENTS)
                try_lock(self.file.fileno())
            if self.file is None:
                return
            if not self.file.closed:
                self.file.writelines(self.waiting)
                self.file.flush()
        except OSError:
            with suppress(OSError):  # what waits cannot be written either
                self.close()
        self.waiting.clear()


def _open_events(path: Path) -> IO[str]:
    """Open a file of events anew, never through a link."""
    handle = open_for_writing(path, os.O_WRONLY | os.O_TRUNC)
    return os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace")


# -- read again ------------------------------------------------------------------------------------


class StageTime(NamedTuple):
    """A stage and its duration in seconds, final or so far."""

    name: str
    seconds: float
    ended: bool


@dataclass(frozen=True)
class RunProgress:
    """A run as its events tell of it: what was found so far, its stage, the last sign of life, and since when.

    `running` is None where nobody can tell. `begun` holds when each stage began, `losses` step and training loss.
    """

    run: Run
    running: bool | None
    heard: datetime
    stage: str = ""
    progress: Progress | None = None
    since: datetime | None = None  # the first sign of this kind, with so many `before` it
    before: int = 0
    ended: bool = False
    begun: tuple[tuple[str, datetime], ...] = ()
    losses: tuple[tuple[int, float], ...] = ()

    @property
    def stages(self) -> list[StageTime]:
        """Return the stages so far, with their durations. The last one is open unless the run ended."""
        ends = [at for _, at in self.begun[1:]] + [self.heard]
        pairs = zip(self.begun, ends, strict=True)
        times = [StageTime(name, (end - at).total_seconds(), True) for (name, at), end in pairs]
        return [*times[:-1], times[-1]._replace(ended=self.ended)] if times else []

    @property
    def open_items(self) -> list[tuple[str, str]]:
        """Return subject and eval of the items without a result."""
        done = {r.id for r in self.run.results}
        parts = (item.split("::") for item in self.run.items if item not in done)
        return [(part[-2], part[-1]) for part in parts if len(part) > 1]

    @property
    def seconds_left(self) -> float | None:
        """Estimate the seconds until the whole run ends.

        None unless the run is going on, has a result, and its current item makes progress. An item counts with the
        longest time its eval took on another subject, else with the mean over the evals.
        """
        known: dict[str, float] = {}
        for r in self.run.results:
            known[r.eval] = max(r.seconds, known.get(r.eval, 0.0))
        if not self.running or not known or (self.progress is not None and self.left is None):
            return None
        mean, now = sum(known.values()) / len(known), self.progress.what if self.progress else ""
        rest = [item for item in self.open_items if "::".join(item) != now]
        return (self.left or 0.0) + sum(known.get(name, mean) for _, name in rest)

    @property
    def left(self) -> float | None:
        """Estimate the seconds until the current progress is complete.

        It assumes the pace so far. None before the first advance, and once `done` reaches `total`.
        """
        p, since = self.progress, self.since
        if p is None or since is None or p.done <= self.before or p.done >= p.total:
            return None
        return (self.heard - since).total_seconds() / (p.done - self.before) * (p.total - p.done)

    @property
    def state(self) -> str:
        """Return in words how it stands."""
        words = {True: "running", False: "cut off", None: "possibly still running"}
        return "ended" if self.ended else words[self.running]

    def summary(self, now: datetime) -> str:
        """Return state, stage, time left and items done in one line."""
        p = self.progress
        at = [self.stage, f"{p.what} {p.done:,} of {p.total:,}" if p and p.total else ""]
        at += [f"about {format_duration(self.left)} left"] if self.running and self.left is not None else []
        done = f"{len(self.run.results):,} of {count_noun(len(self.run.items), 'item')} done"
        ago = max((now - self.heard).total_seconds(), 0.0)
        heard = (
            f"last event {format_duration(ago)} ago"
            if self.running
            else f"last event at {self.heard:%Y-%m-%d %H:%M:%S} UTC"
        )
        way = "" if self.running or self.ended else "; run it again: it resumes and reuses cached answers"
        return f"{self.state}: {', '.join(filter(None, [*at, done, heard]))}{way}"


def read_events(folder: Path) -> RunProgress:
    """Read the progress of a run from its folder.

    Raises UsageError if its event log is missing, invalid or of another version.
    """
    path = folder / EVENTS
    try:
        with ForeignFolder(folder).open(EVENTS) as file:
            free = try_lock(file.fileno(), shared=True)  # None where its file system knows no locks
            content = file.read(MAX_LOG_BYTES + 1)
        if len(content) > MAX_LOG_BYTES:
            raise UsageError(f"{path}: is larger than {MAX_LOG_BYTES >> 20} MB")
        lines = [parse_record(line) for line in split_json_lines(content) if line]
        if not lines or any(line["format"] != FORMAT_VERSION for line in lines):
            raise UsageError(f"{path}: was not written by this version of the harness")
        return _make_progress_from_events(lines, None if free is None else not free, folder)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; name a folder in reports/") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path}: is not a log of events; run the suite again") from None


def _make_progress_from_events(lines: Sequence[Mapping[str, Any]], running: bool | None, folder: Path) -> RunProgress:
    first, *rest = lines
    run = from_json(Run, {name: first[name] for name in START_KEYS}, "it")
    found = RunProgress(replace(run, folder=str(folder)), running, datetime.fromisoformat(lines[-1]["at"]))
    for line in rest:
        told = {key: value for key, value in line.items() if key not in ("format", "event", "at")}
        kind = line["event"]
        if kind == "stage":
            at = datetime.fromisoformat(line["at"])
            begun = (*found.begun, (str(told["stage"]), at))
            found = replace(found, stage=str(told["stage"]), progress=None, since=None, begun=begun)
        elif kind == "progress":
            facts = dict(told.pop("facts"))  # texts or numbers
            sign, at = replace(from_json(Progress, told, "it"), facts=facts), datetime.fromisoformat(line["at"])
            new = found.progress is None or found.progress.what != sign.what
            if sign.what == "train" and isinstance(loss := facts.get("loss"), (int, float)):
                found = replace(found, losses=(*found.losses, (sign.done, float(loss))))
            found = replace(found, progress=sign, **({"since": at, "before": sign.done} if new else {}))
        elif kind == "report":
            run.results.append(from_json(ItemResult, told, "it"))
            found = replace(found, progress=None, since=None)
        elif kind == "verdict":
            last = run.results[-1]
            verdict = from_json(Verdict, told, "it")
            require_wordable(verdict)
            run.results[-1] = replace(last, verdicts=(*last.verdicts, verdict))
        elif kind == "finding":
            run.findings.append(from_json(Finding, told, "it"))
        elif kind == "run_finish":
            found = replace(found, ended=True)
    if odd := run.find_odd_name():
        raise ValueError(f"{odd} is not the name of a suite, a subject or an eval")
    return found
