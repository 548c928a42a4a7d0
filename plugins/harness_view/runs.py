"""The runs in a folder as a list: read where a folder changed since it was read last, and kept by nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Lock

from harness import UsageError
from harness.internals import EVENTS, read_events, sentence, shown
from harness_report import gates, history, made, page, reading, words

REPORT, LOCK = "report.json", "suite.lock.json"
NAMED = 6  # keys that differ


@dataclass(frozen=True)
class RunLine:
    """A line of the list; `state` is that of a run without a report, `error` why a folder cannot be read."""

    folder: Path
    started: str = ""
    suite: str = ""
    outcome: str = ""
    sentence: str = ""
    driver: str = ""
    state: str = ""
    error: str = ""
    judged: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    exports: tuple[tuple[str, str], ...] = ()  # where to, and the weights
    changed: str = ""
    release: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def when(self) -> str:
        return words.day(self.started)


class Runs:
    """The run folders in a folder, by name. Raises UsageError where there is no folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder}: is no folder; name the one that the run folders are in")
        self.folder, self.lock = folder, Lock()
        self.read: dict[Path, tuple[object, RunLine]] = {}

    def folders(self) -> dict[str, Path]:
        """Return the folders that hold a report or events: nothing else can be asked for."""
        found = {path.parent for name in (REPORT, EVENTS) for path in self.folder.glob(f"*/{name}")}
        return {folder.name: folder for folder in found}

    def listed(self) -> list[RunLine]:
        """Return a line for each run, the last one first."""
        with self.lock:
            self.read = {folder: self._read(folder) for folder in self.folders().values()}
            lines = sorted((line for _, line in self.read.values()), key=lambda one: (one.started, one.name))
        days, last, found = cache(history.released), dict[str, RunLine](), []
        for line in lines:
            changes = _changes(last.get(line.suite), line) if line.settings else ""
            releases = (history.release_of(days(to), digest, line.started) for to, digest in line.exports)
            found.append(replace(line, changed=changes, release=next(filter(None, releases), "")))
            last |= {line.suite: line} if line.settings else {}
        return found[::-1]

    def _read(self, folder: Path) -> tuple[object, RunLine]:
        stamps = tuple(_stamp(folder / name) for name in (REPORT, LOCK))
        if (known := self.read.get(folder)) and known[0] == stamps and stamps[0]:
            return known
        try:
            if stamps[0]:
                return stamps, _finished(reading.read_folder(folder))
            found = read_events(folder)
            return stamps, RunLine(folder, found.run.started, shown(found.run.suite), "INCONCLUSIVE", state=found.state)
        except UsageError as error:
            return stamps, RunLine(folder, error=shown(str(error)).replace(f"{folder}/", ""))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


def _finished(kept: reading.Kept) -> RunLine:
    run, v, outcome = kept.run, sentence.driver(kept.run), sentence.outcome(kept.run)
    said = shown(f"{sentence.GLYPHS[v.outcome]} {v.gate}: {gates.estimate_of(kept, v)}") if v else ""
    judged = any("injection_suspect" in r.metrics for r in run.reports)
    weights = tuple((e.to, e.digest) for e in run.exports if e.digest)
    came = f"{sentence.GLYPHS[outcome]} {page.headline(run)}"
    about = (kept.folder, run.started, shown(run.suite), outcome.value, came, said)
    return RunLine(*about, judged=judged, settings=made.flat(kept), exports=weights)


def _changes(before: RunLine | None, now: RunLine) -> str:
    """Return the keys of the configuration that are other than in the run before, with what they are now."""
    if before is None:
        return ""
    keys = [k for k in {**now.settings, **before.settings} if now.settings.get(k) != before.settings.get(k)]
    more = f"; {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return "; ".join(shown(f"{k} {now.settings.get(k, 'not set')}") for k in keys[:NAMED]) + more
