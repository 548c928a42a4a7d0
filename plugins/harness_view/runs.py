"""The runs in a folder as a list: read where a folder changed since it was read last, and kept by nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Lock

from harness import UsageError
from harness.internals import EVENTS, RunProgress, printable, read_events, rules, summary, view_run
from harness_report import formatting, gates, history, page, reading

REPORT, LOCK = "report.json", "suite.lock.json"
MAX_NAMED_KEYS = 6  # keys that differ


@dataclass(frozen=True)
class RunListEntry:
    """A line of the list of runs.

    `state` is that of a run without a report, `error` why a folder cannot be read.
    """

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
    candidate: str = ""
    took: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def when(self) -> str:
        return formatting.format_day(self.started)


class Runs:
    """The run folders in a folder, by name. Raises UsageError where there is no folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder}: is not a folder; name the folder of the run folders")
        self.folder, self.lock = folder, Lock()
        self.read: dict[Path, tuple[object, RunListEntry]] = {}

    def run_folders(self) -> dict[str, Path]:
        """Return the folders that hold a report or events: nothing else can be asked for."""
        found = {path.parent for name in (REPORT, EVENTS) for path in self.folder.glob(f"*/{name}")}
        return {folder.name: folder for folder in found if not folder.is_symlink()}

    def list_runs(self) -> list[RunListEntry]:
        """Return a line for each run, the last one first."""
        with self.lock:
            self.read = {folder: self._read(folder) for folder in self.run_folders().values()}
            lines = sorted((line for _, line in self.read.values()), key=lambda one: (one.started, one.name))
        days, last, found = cache(history.release_days), dict[str, Mapping[str, str]](), []
        for line in lines:
            now, before = line.settings, last.get(line.suite, line.settings)
            keys = [k for k in {**now, **before} if now.get(k) != before.get(k)] if now else []
            changes = "; ".join(printable(f"{k} {now.get(k, 'not set')}") for k in keys[:MAX_NAMED_KEYS])
            changes += f"; {len(keys) - MAX_NAMED_KEYS} more" if len(keys) > MAX_NAMED_KEYS else ""
            releases = (history.release_day(days(to), digest, line.started) for to, digest in line.exports)
            found.append(replace(line, changed=changes, release=next(filter(None, releases), "")))
            last |= {line.suite: now} if now else {}
        return found[::-1]

    def _read(self, folder: Path) -> tuple[object, RunListEntry]:
        stamps = list[tuple[int, int] | None]()
        for name in (REPORT, LOCK):
            try:
                stat = (folder / name).stat()
                stamps.append((stat.st_mtime_ns, stat.st_size))
            except OSError:
                stamps.append(None)
        if (known := self.read.get(folder)) and known[0] == stamps and stamps[0]:
            return known
        try:
            if not stamps[0]:
                live = read_events(folder)
                line = RunListEntry(
                    folder,
                    live.run.started,
                    printable(live.run.suite),
                    "INCONCLUSIVE",
                    state=_format_unfinished_run_state(live),
                )
                return stamps, line
            kept = reading.read_folder(folder)
            run, view = kept.run, view_run(kept.run, kept.folder)
            v = view.deciding_verdict
            said = printable(f"{summary.GLYPHS[v.outcome]} {v.gate}: {gates.estimate_text(kept, v)}") if v else ""
            judged = any("injection_suspect" in r.metrics for r in run.results)
            weights = tuple((e.to, e.digest) for e in run.exports if e.digest)
            about = (
                run.started,
                printable(run.suite),
                view.outcome.value,
                f"{view.glyph} {page.headline_text(run)}",
                said,
            )
            return stamps, RunListEntry(
                folder, *about, judged=judged, settings=rules.flatten_rules(kept.rules), exports=weights,
                candidate=_name_candidate_or_scored_model(kept), took=view.duration,
            )  # fmt: skip
        except UsageError as error:
            return stamps, RunListEntry(folder, error=printable(str(error)).replace(f"{folder}/", ""))
        except Exception as error:  # a report may be anybody's, and is not the end of the others
            return stamps, RunListEntry(folder, error=printable(f"cannot be read: {type(error).__name__}: {error}"))


def _name_candidate_or_scored_model(kept: reading.LoadedRun) -> str:
    """Return the candidate's name, or the model's for externally scored rows."""
    model = (kept.run.facts.get(kept.ours) or {}).get("model")
    return printable(str(model) if model and kept.run.is_of_scored_rows else kept.ours)


def _format_unfinished_run_state(live: RunProgress) -> str:
    """Return the state of a run without a report, and its stage."""
    return f"{live.state}: {printable(live.stage)}" if live.stage and not live.ended else live.state
