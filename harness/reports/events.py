"""A run as it goes, a line of JSON an event, for editors and scripts."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.hookspec import hookimpl
from harness.records.findings import Finding
from harness.records.models import Progress
from harness.records.run import Report, Run, Trial
from harness.reports.report_json import plain

FORMAT = 1  # of a line; raised when a reader of an older one would misread it


class Events:
    """A listener that writes what it hears to a file, each line as soon as it is heard.

    Raises UsageError where the file cannot be written. One that cannot be written later on is written no more: it
    decides nothing.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.file = path.open("w", encoding="utf-8", errors="backslashreplace")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f'--events "{path}": cannot be written: {why}; name a file that can be') from None

    @hookimpl
    def harness_run_start(self, run: Run) -> None:
        self.write("run_start", suite=run.suite, path=run.path, model=run.model, items=run.items, gates=run.gates)

    @hookimpl
    def harness_stage(self, run: Run, stage: str, detail: str) -> None:
        self.write("stage", stage=stage, detail=detail)

    @hookimpl
    def harness_progress(self, progress: Progress) -> None:
        self.write("progress", **asdict(progress))

    @hookimpl
    def harness_report(self, run: Run, report: Report) -> None:
        told = {key: value for key, value in asdict(report).items() if key not in ("verdicts", "traceback")}
        self.write("report", **told)
        for verdict in report.verdicts:
            self.write("verdict", **asdict(verdict))

    @hookimpl
    def harness_flag(self, run: Run, flag: Finding) -> None:
        self.write("finding", **asdict(flag))

    @hookimpl
    def harness_trial(self, run: Run, trial: Trial) -> None:
        self.write("trial", **asdict(trial))

    @hookimpl(trylast=True)
    def harness_run_finish(self, run: Run) -> None:
        told = {"exit_code": int(run.exit_code), "problem": run.problem, "conclusions": run.conclusions}
        self.write("run_finish", **told, folder=run.folder, seconds=run.seconds)
        self.file.close()

    def write(self, event: str, **told: Any) -> None:
        """Write a line, without secrets."""
        if self.file.closed:
            return
        line = {"format": FORMAT, "event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **told}
        try:
            self.file.write(json.dumps(plain(line), ensure_ascii=False, default=str, allow_nan=False) + "\n")
            self.file.flush()
        except OSError:
            with suppress(OSError):  # what waits cannot be written either
                self.file.close()
