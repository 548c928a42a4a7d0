"""The pytest-like terminal output of a run, and its summary.

It is one listener among others. Data goes to stdout, and nothing depends on colour.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape as unmarked
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.cli.screen import (
    Screen,
    format_fact,
    format_interval,
    format_reasons,
    format_title,
    format_value,
    short_path,
)
from harness.errors import ExitCode
from harness.hookspec import hookimpl
from harness.records import verdict_text
from harness.records.completion import format_finish_reasons
from harness.records.findings import Built, Finding
from harness.records.models import Progress as Sign
from harness.records.run import ItemResult, Run, Swept, Trial
from harness.records.verdicts import Outcome, Verdict
from harness.reports.events import RunProgress
from harness.reports.view import view_run
from harness.schema import format_toml
from harness.texts.counts import count_noun
from harness.texts.escaping import printable, shorten_text
from harness.texts.numbers import format_bytes, format_duration, format_metric, format_p, format_percent

IGNORED = -100  # the label of a token that is not learnt
MODEL_FACTS = ("architecture", "parameters", "dtype", "bytes")
INDENT = " " * 17  # of what is said of a verdict
MAX_NAMED_ROWS = 5  # rows that a verdict lost, of which there may be many
QUIET_SECONDS = 30  # between two signs of life where there is no terminal to draw a bar on
TEMPO_SECONDS = 300  # by whose tempo the time left is told; a step may take a minute
STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.INCONCLUSIVE: "yellow", Outcome.ERROR: "bold red"}
FLAG_STYLES = {"error": "bold red", "warning": "yellow", "note": "", "ignored": "dim"}
REPORT = "report.html"  # what a plugin may have written into a run's folder for a person to open


class Terminal(Screen):
    """Print a run as it goes. `verbosity`: -1 the summary only, 0 a line an item, 1 slices and tracebacks too."""

    def __init__(self, verbosity: int = 0, console: Console | None = None) -> None:
        self.verbosity = verbosity
        super().__init__(console)
        self.bar: Progress | None = None
        self.what, self.said = "", time.monotonic()
        self.opened = False
        self.alpha = 0.0  # of the suite, whose bounds the header names
        self.warned = 0

    @hookimpl
    def harness_run_start(self, run: Run) -> None:
        self.alpha = run.alpha
        self.opened, self.warned = False, 0
        if self.verbosity < 0:
            return
        self.print_rule(f"harness {run.harness}: {run.suite}")
        items = count_noun(len(run.items), "item")
        each = f" for each of {run.shipping} candidates that may ship" if run.shipping > 1 else ""
        self.print_line(f"suite  {run.path} · seed {run.seed} · alpha {run.alpha:g}{each} · {items}", hang=7)
        self.print_line(f"model  {run.model}", hang=7)
        self.print_line(bounds_legend(run.alpha), hang=7)
        if run.selecting:
            what = "evaluated to choose a candidate: confirms nothing, counts no attempt, exports nothing"
            self.print_line(f"split  select: {what}", hang=7)
        for reading in run.readings:
            self.print_line(reading)
        self.print_warnings(run)

    @hookimpl
    def harness_stage(self, run: Run, stage: str, detail: str) -> None:
        self.clear_progress()
        if self.verbosity >= 0:
            self.print_model(run)
            self.print_line("")
            self.print_entry(stage, "bold", f"  {detail}" if detail else "", len(stage) + 2)
            for row in run.shown_rows[:1] if stage == "train" else ():  # as the model sees it
                text = "".join(f"⟦{part.text}⟧" if part.trained else part.text for part in row.segments)
                self.print_line(f"row {row.number} (trained tokens in ⟦ ⟧): {shorten_text(text)}", hang=4)

    @hookimpl
    def harness_progress(self, progress: Sign) -> None:
        if self.verbosity < 0:
            return
        if progress.remark:
            self.print_line(f"  {progress.remark}")
        facts = "  ".join(f"{k} {format_value(v)}" for k, v in progress.facts.items())
        left = self.draw_progress(progress, facts)
        if not self.is_drawn and time.monotonic() - self.said > QUIET_SECONDS and 0 < progress.done < progress.total:
            self.said = time.monotonic()
            told = "" if left is None else f", about {format_duration(left)} left"
            self.print_line(f"  {progress.what} {progress.done}/{progress.total}{told}  {facts}".rstrip())

    @hookimpl
    def harness_item_finish(self, run: Run, item: ItemResult) -> None:
        self.clear_progress()
        if self.verbosity >= 0:
            self.print_item(item)
            self.print_warnings(run)

    @hookimpl
    def harness_finding(self, run: Run, finding: Finding) -> None:
        self.clear_progress()
        if self.verbosity >= 0:
            print_finding(self, finding)

    @hookimpl
    def harness_trial(self, run: Run, trial: Trial) -> None:
        self.clear_progress()
        if self.verbosity >= 0 and run.sweep:
            name, value = f"{run.sweep.key} = {format_toml(trial.value)}", format_metric(trial.metric)
            self.print_line(f"  {name}: {run.sweep.by} {value}" + (f"; {trial.why}" if trial.why else ""))

    @hookimpl(trylast=True)  # once others that watch have written what they write
    def harness_run_finish(self, run: Run) -> None:
        self.clear_progress()
        if self.verbosity >= 0:
            self.print_warnings(run)
        Summary(self, run, self.verbosity).print_all()

    def print_run(self, run: Run) -> None:
        """Print a finished run again."""
        self.harness_run_start(run)
        self.print_model(run)
        for report in run.results if self.verbosity >= 0 else ():
            self.print_item(report)
        Summary(self, run, self.verbosity).print_all()

    def print_progress(self, found: RunProgress) -> None:
        """Print a run's results so far and its last known state."""
        self.harness_run_start(found.run)
        for flag in found.run.findings:
            print_finding(self, flag)
        for report in found.run.results:
            self.print_item(report)
        self.print_line(found.summary(datetime.now(UTC)), "bold" if found.running else "bold yellow")

    def print_warnings(self, run: Run) -> None:
        """Print the warnings that came since the last time."""
        for warning in run.warnings[self.warned :]:
            self.print_line(f"warning: {warning}", "yellow")
        self.warned = len(run.warnings)

    def print_model(self, run: Run) -> None:
        """Print the facts of the model, once preflight has opened it."""
        if not self.opened and (facts := run.facts.get("model")):
            self.print_line("  " + " · ".join(format_fact(k, v) for k, v in facts.items() if k in MODEL_FACTS))
            self.opened = True

    def print_item(self, report: ItemResult) -> None:
        name = f"  {report.subject}::{report.eval}"
        if report.outcome == "skipped":
            self.print_line(f"{name}  skipped: {report.error}", "dim")
            return
        metrics = "  ".join(f"{m} {format_metric(v)}" for m, v in report.metrics.items())
        early = report.outcome == "done" and report.n < report.of
        rows = f"stopped early at {report.n} of {report.of} rows" if early else count_noun(report.n, "row")
        facts = [rows, format_duration(report.seconds)]
        if report.cache_hits:
            some = f"{report.cache_hits:,} of {report.requests:,} " if report.cache_hits < report.requests else ""
            facts.append(f"{some}cached")
        self.print_line(f"{name}  {metrics}  ({', '.join(facts)})", hang=4)
        if report.finish_reasons.keys() - {"eos", "stop"}:
            self.print_line(f"    {format_finish_reasons(report.finish_reasons)}", "dim")
        if report.error:
            self.print_line(f"    ERROR {report.error}", "bold red")
        if report.traceback and self.verbosity > 0:
            self.print_lines(report.traceback, "dim")
        for caveat in report.caveats:
            if not any(caveat in verdict_text.iterate_result(v) for v in report.verdicts):
                self.print_line(f"    note: {caveat}", "yellow")
        for verdict, why in zip(
            report.verdicts, format_reasons(report.verdicts, tests=self.verbosity > 0), strict=True
        ):
            self.print_verdict(verdict, why)
        if self.verbosity > 0:
            self.print_slices(report)

    def print_preview(self, built: Built) -> None:
        """Print three training rows as the model will see them.

        Trained tokens stand between marks.
        """
        if not (examples := built.examples) or self.verbosity < 0:
            return
        self.print_line("training rows as the model will see them (trained tokens in ⟦ ⟧):")
        for example in [examples[i] for i in sorted({0, len(examples) // 2, len(examples) - 1})]:
            kept = example.labels[built.kept_span]
            learnt = sum(label != IGNORED for label in kept[1:])  # the first is never predicted
            self.print_line(f"row {example.number}: {len(kept)} tokens, {learnt} trained")
            self.print_line(f"    {shorten_text(built.show(example))}", hang=4)

    def print_verdict(self, v: Verdict, why: str) -> None:
        claim = f"{format_title(v)}: {verdict_text.format_claim(v)}".replace(":  ", ": ")
        self.print_entry("    " + f"{v.outcome:<12}", STYLES[v.outcome], f" {claim}", len(INDENT))
        if _is_shown_in_one_line(v, self.verbosity):
            return
        style = "dim" if v.outcome is Outcome.PASS else ""
        self.print_line(f"{INDENT}{why}{other_confidence(v, self.alpha)}", style, len(INDENT))
        rows = v.table(tests=self.verbosity > 0)
        for row in rows:
            if (self.verbosity > 0 and len(rows) > 1) or (row.open and row.name != v.where):
                remark = f" ({row.remark})" if row.remark else ""
                line = f"{INDENT}  {row.outcome} {row.name}{remark}: {row.sentence}"
                self.print_line(line, style, len(INDENT) + 4)
        if v.lost and v.outcome is not Outcome.PASS:
            dots = ["…"] if len(v.lost) > MAX_NAMED_ROWS else []
            self.print_line(f"{INDENT}lost, worst first: {', '.join([*v.lost[:MAX_NAMED_ROWS], *dots])}", style)
        if v.waiver:
            self.print_line(f"{INDENT}{v.waiver.summary()}", "yellow")

    def print_slices(self, report: ItemResult) -> None:
        names = ["n", *report.metrics]
        for column, values in report.slices.items():
            rows = [[value, *(format_metric(metrics.get(name)) for name in names)] for value, metrics in values.items()]
            self.print_columns([[column, *names], *rows], indent="    ")

    def draw_progress(self, progress: Sign, facts: str) -> float | None:
        """Draw a progress bar and return the estimated seconds left.

        The bar is only visible on a terminal. The estimate is None until there is one.
        """
        if self.bar is None:
            columns = (TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.completed}/{task.total}"))
            times = TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[facts]}")
            how: dict[str, Any] = {"console": self.console, "transient": True, "speed_estimate_period": TEMPO_SECONDS}
            self.bar = Progress(*columns, *times, **how)
            if self.is_drawn:
                self.bar.start()
        what, facts = unmarked(printable(progress.what)), unmarked(printable(facts))
        if not self.bar.tasks or what != self.what:
            for before in self.bar.task_ids:
                self.bar.remove_task(before)
            self.bar.add_task(what, total=progress.total, facts=facts)
        (task,), self.what = self.bar.tasks, what
        self.bar.update(task.id, completed=progress.done, total=progress.total, facts=facts)
        return task.time_remaining

    def clear_progress(self) -> None:
        if self.bar is not None and self.is_drawn:
            self.bar.stop()
        self.bar, self.what = None, ""


class Summary:
    """The last page of a run. `verbosity`: -1 alone on the screen, 1 with the names of tests and tracebacks."""

    def __init__(self, screen: Screen, run: Run, verbosity: int) -> None:
        self.screen, self.run, self.verbosity = screen, run, verbosity
        self.view = view_run(run)
        self.line = screen.print_line

    def print_all(self) -> None:
        """Print it."""
        run, view = self.run, self.view
        if self.verbosity >= 0:
            self.line("")
        self.screen.print_rule("summary")
        self.print_table()
        if run.sweep:
            self.print_trials(run.sweep)
        if (training := run.facts.get("training")) and self.verbosity >= 0:
            said = (format_fact(k, v) for k, v in training.items() if isinstance(v, (str, int, float)))
            self.line("training: " + ", ".join(said), hang=10)
        for finding in view.findings:
            print_finding(self.screen, replace(finding, evidence=(), fix=""))
        for item in view.failed_items:
            self.line(f"ERROR {item.id}: {item.error}", "bold red")
        self.print_not_passed()
        for conclusion in view.conclusions:
            self.line(conclusion, "bold")
        for export, reasons in view.refused_exports:
            self.line(f"not exported: {export.candidate} to {short_path(export.to)}", "bold red")
            for reason in reasons:
                self.line(f"  because {reason}")
        if run.deselected:
            self.line(f"{count_noun(len(run.deselected), 'item')} deselected")
        for problem in view.problems:
            self.line(f"error: {problem}", "bold red")
        if run.traceback and (self.verbosity > 0 or run.exit_code == ExitCode.INTERNAL):
            self.screen.print_lines(run.traceback, "dim")
        self.print_ending()

    def print_not_passed(self) -> None:
        """Print the verdicts that did not pass, with claim and reason."""
        open_ = [v for v in self.view.verdicts if v.outcome is not Outcome.PASS]
        left = [v for v in open_ if not _is_shown_in_one_line(v, self.verbosity)]
        if self.verbosity < 0 and any(v.lower is not None or v.upper is not None for v in left):
            self.line(bounds_legend(self.run.alpha))
        for v, why in zip(left, format_reasons(left, tests=self.verbosity > 0), strict=True):
            claim = f"{verdict_text.format_claim(v)}: " if v.estimate is not None else ""
            why += other_confidence(v, self.run.alpha)
            self.line(f"{v.outcome} {v.candidate}: {format_title(v)}: {claim}{why}", STYLES[v.outcome])
            if v.waiver and not v.decides:  # others stand at the end
                self.line(f"  {v.waiver.summary()}", "yellow")

    def print_ending(self) -> None:
        """Print the last lines: outcomes, time and exit code, what was decided, and where things are."""
        run, view = self.run, self.view
        passes = "yellow" if view.has_exceptions else "green"
        style = passes if run.exit_code == ExitCode.OK else "bold red"
        self.screen.print_rule(f"{view.outcome_counts} in {view.duration} · {view.exit}", style)
        self.line(view.sentence, style if style == "yellow" else f"bold {style.split()[-1]}")
        for line in [*view.exceptions, *view.changed_rules]:
            self.line(line, "yellow")
        for export in view.exported:
            size = f"{format_bytes(export.bytes)}, weights {export.digest[:12]}"
            self.line(f"exported {export.candidate} to {short_path(export.to)} ({size})")
        if run.folder:
            if (there := Path(run.folder) / REPORT).is_file():
                self.line(f"report   {short_path(there)}", hang=9)
            self.line(f"run      {short_path(run.folder)}", hang=9)
            if step := view.next_step:
                self.line(f"next     {step.command or step.what}", hang=9)

    def print_table(self) -> None:
        """Print every metric with one column a subject."""
        done = [r for r in self.run.results if r.outcome != "skipped" and r.subject not in self.run.runs]
        if not (subjects := list(dict.fromkeys(r.subject for r in done))):
            return
        cells = {(r.eval, m, r.subject): format_metric(v) for r in done for m, v in r.metrics.items()}
        metrics = dict.fromkeys((e, m) for e, m, _ in cells)
        rows = [[f"{e}.{m}", *(cells.get((e, m, s), "–") for s in subjects)] for e, m in metrics]
        self.screen.print_columns([["metric", *subjects], *rows])

    def print_trials(self, sweep: Swept) -> None:
        """Print a sweep's trials, the chosen one marked."""
        best = sweep.rule == "best"
        rule = "the value with the best mean is chosen" if best else f"each step tested at alpha {sweep.alpha:g}"
        self.line(f"sweep of {sweep.key} on {sweep.rows} selection rows, {rule}:")
        before = f"against the {'best' if best else 'one'} before"
        rows = [[f"  {sweep.key}", sweep.by, before, "p", "parameters", "training"]]
        for t in sweep.trials:
            mark = ">" if sweep.chosen is not None and t.value == sweep.chosen else " "
            metric = format_metric(t.metric) + format_interval(t.lower, t.upper, format_metric)
            write = sweep.format_change
            change = (
                "–" if t.change is None else write(t.change) + format_interval(t.change_lower, t.change_upper, write)
            )
            seconds = format_duration(t.seconds) + (" (earlier)" if t.reused else "")
            parameters = "–" if t.parameters is None else f"{t.parameters:,}"
            p = "–" if t.p is None else format_p(t.p, sweep.alpha)
            rows.append([f"{mark} {format_toml(t.value)}", metric, change, p, parameters, seconds])
        rows += [
            [f"  {format_toml(value)}", "not tried", "", "", "", ""] for value in sweep.values[len(sweep.trials) :]
        ]
        self.screen.print_columns(rows)


def print_finding(screen: Screen, flag: Finding) -> None:
    """Print a finding with its evidence and fix."""
    word, hang = "ignored" if flag.ignored is not None else flag.severity, 11
    screen.print_line(f"  {word:<8} {flag.name}: {flag.what}", FLAG_STYLES[word], hang)
    if flag.ignored is not None:
        screen.print_line(f"           {flag.waiver.summary() if flag.waiver else flag.ignored}", "dim", hang)
        return
    for line in flag.evidence:
        screen.print_line(f"           {line}", "dim", hang)
    if flag.fix:
        screen.print_line(f"           fix: {flag.fix}", hang=hang)


def bounds_legend(alpha: float) -> str:
    """Return the legend of the bounds in brackets."""
    return f"[a, b]  each bound holds at {format_percent(1 - alpha)}, one-sided"


def other_confidence(v: Verdict, alpha: float) -> str:
    """Return the bounds' confidence if it differs from the suite's.

    Empty otherwise, and for verdicts without bounds.
    """
    bounded = (v.lower is not None or v.upper is not None) and v.method not in ("point", "failures counted")
    return f"; bounds at {format_percent(1 - v.alpha)}" if v.alpha and v.alpha != alpha and bounded else ""


def _is_shown_in_one_line(v: Verdict, verbosity: int) -> bool:
    """Return whether a verdict is told in a line without -v: it was measured, and is not about what ships."""
    return verbosity <= 0 and not v.decides and v.estimate is not None and not v.waiver
