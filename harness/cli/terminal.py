"""The pytest-like output: one listener among others. Data goes to stdout, and nothing depends on colour."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.cli.screen import Screen
from harness.cli.words import (
    describe,
    difference,
    duration,
    escape,
    fact,
    interval,
    number,
    reasons,
    some,
    title,
)
from harness.errors import ExitCode
from harness.hookspec import hookimpl
from harness.records.findings import Built, Finding
from harness.records.gates import Outcome, Verdict
from harness.records.models import Progress as Sign
from harness.records.run import Report, Run, Swept, Trial
from harness.schema import show
from harness.texts.shown import shorten

STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.INCONCLUSIVE: "yellow", Outcome.ERROR: "bold red"}
FLAG_STYLES = {"error": "bold red", "warning": "yellow", "note": "", "ignored": "dim"}
IGNORED = -100  # the label of a token that is not learnt
MODEL_FACTS = ("architecture", "parameters", "dtype", "bytes")
INDENT = " " * 17  # of what is said of a verdict
QUIET_SECONDS = 30  # between two signs of life where there is no terminal to draw a bar on


class Terminal(Screen):
    """Print a run as it goes. `verbosity`: -1 the summary only, 0 a line an item, 1 slices and tracebacks too."""

    def __init__(self, verbosity: int = 0, console: Console | None = None) -> None:
        self.verbosity = verbosity
        super().__init__(console)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.what, self.said = "", time.monotonic()
        self.opened = False
        self.warned = 0

    # -- hooks -------------------------------------------------------------------------------------

    @hookimpl
    def harness_run_start(self, run: Run) -> None:
        self.opened, self.warned = False, 0
        if self.verbosity < 0:
            return
        self.rule(f"harness {run.harness}: {run.suite}")
        self.line(f"suite  {run.path} · seed {run.seed} · alpha {run.alpha:g} · {len(run.items)} items")
        self.line(f"model  {run.model}")
        if run.selecting:
            self.line(
                "split  select: to choose a candidate by; nothing is confirmed, no attempt is counted, nothing ships"
            )
        self.warnings(run)

    @hookimpl
    def harness_stage(self, run: Run, stage: str, detail: str) -> None:
        self.clear()
        if self.verbosity >= 0:
            self.model(run)
            self.console.print(f"\n[bold]{escape(stage)}[/]" + (f"  {escape(detail)}" if detail else ""))

    @hookimpl
    def harness_progress(self, progress: Sign) -> None:
        if self.verbosity < 0:
            return
        if progress.remark:
            self.line(f"  {progress.remark}")
        facts = "  ".join(f"{k} {fact(v)}" for k, v in progress.facts.items())
        if self.console.is_terminal:
            self.draw(progress, facts)
        elif time.monotonic() - self.said > QUIET_SECONDS and 0 < progress.done < progress.total:
            self.said = time.monotonic()
            self.line(f"  {progress.what} {progress.done}/{progress.total}  {facts}".rstrip())

    @hookimpl
    def harness_report(self, run: Run, report: Report) -> None:
        self.clear()
        if self.verbosity >= 0:
            self.item(report)
            self.warnings(run)

    @hookimpl
    def harness_flag(self, run: Run, flag: Finding) -> None:
        self.clear()
        if self.verbosity >= 0:
            self.flag(flag)

    @hookimpl
    def harness_trial(self, run: Run, trial: Trial) -> None:
        self.clear()
        if self.verbosity >= 0 and run.sweep:
            name, value = f"{run.sweep.key} = {show(trial.value)}", number(trial.metric)
            self.line(f"  {name}: {run.sweep.by} {value}" + (f"; {trial.why}" if trial.why else ""))

    @hookimpl
    def harness_run_finish(self, run: Run) -> None:
        self.clear()
        if self.verbosity >= 0:
            self.warnings(run)
        self.summary(run)

    # -- parts -------------------------------------------------------------------------------------

    def show(self, run: Run) -> None:
        """Print a finished run again."""
        self.harness_run_start(run)
        self.model(run)
        for report in run.reports:
            if self.verbosity >= 0:
                self.item(report)
        self.summary(run)

    def warnings(self, run: Run) -> None:
        """Print the warnings that came since the last time."""
        for warning in run.warnings[self.warned :]:
            self.line(f"warning: {warning}", "yellow")
        self.warned = len(run.warnings)

    def model(self, run: Run) -> None:
        """Print what is known of the model, once preflight has opened it."""
        if not self.opened and (facts := run.facts.get("model")):
            shown = (describe(k, v) for k, v in facts.items() if k in MODEL_FACTS)
            self.line("  " + " · ".join(shown))
            self.opened = True

    def item(self, report: Report) -> None:
        name = f"  {report.subject}::{report.eval}"
        if report.outcome == "skipped":
            self.line(f"{name}  skipped: {report.error}", "dim")
            return
        metrics = "  ".join(f"{m} {number(v)}" for m, v in report.metrics.items())
        early = report.outcome == "done" and report.n < report.of
        rows = f"{report.n} of {report.of} rows, decided early" if early else f"{report.n} rows"
        facts = [rows, duration(report.seconds)]
        if report.remembered:
            some = f"{report.remembered:,} of {report.asked:,} " if report.remembered < report.asked else ""
            facts.append(f"{some}cached")
        self.line(f"{name}  {metrics}  ({', '.join(facts)})")
        if report.error:
            self.line(f"    ERROR {report.error}", "bold red")
        if report.traceback:
            self.lines(report.traceback, "dim")
        for caveat in report.caveats:
            if not any(v.why.startswith(caveat) for v in report.verdicts):
                self.line(f"    note: {caveat}", "yellow")
        for verdict, why in zip(report.verdicts, reasons(report.verdicts), strict=True):
            self.verdict(verdict, why)
        if self.verbosity > 0:
            self.slices(report)

    def flag(self, flag: Finding) -> None:
        """Print what a check found: the line, the rows that show it, the way out."""
        word = "ignored" if flag.ignored is not None else flag.severity
        self.line(f"  {word:<8} {flag.name}: {flag.what}", FLAG_STYLES[word])
        if flag.ignored is not None:
            self.line(f"           {flag.ignored}", "dim")
            return
        for line in flag.evidence:
            self.line(f"           {line}", "dim")
        if flag.fix:
            self.line(f"           fix: {flag.fix}")

    def preview(self, built: Built) -> None:
        """Print three rows as the model will see them, what is learnt between marks."""
        examples = built.examples
        if not examples or self.verbosity < 0:
            return
        self.line("rows as the model will see them, what it learns between ⟦ and ⟧:")
        for example in [examples[i] for i in sorted({0, len(examples) // 2, len(examples) - 1})]:
            labels = example.labels[1 : built.cut]  # the first token is never predicted
            learnt = sum(label != IGNORED for label in labels)
            self.line(f"  row {example.number}: {len(example.ids[: built.cut])} tokens, {learnt} learnt")
            self.line(f"    {shorten(built.show(example))}")

    def verdict(self, v: Verdict, why: str) -> None:
        word = f"[{STYLES[v.outcome]}]{v.outcome:<12}[/]"
        self.console.print(f"    {word} {escape(f'{title(v)}: {v.metric} {v.claim}'.replace(':  ', ': '))}")
        style = "dim" if v.outcome is Outcome.PASS else ""
        self.line(f"{INDENT}{why}", style)
        for s in v.slices if len(v.slices) > 1 else ():
            open_ = s.outcome is Outcome.FAIL or (s.outcome is not Outcome.PASS and not s.alarm)
            if self.verbosity > 0 or (open_ and s.name != v.driver):
                alarm = " (alarm)" if s.alarm else ""
                self.line(f"{INDENT}  {s.outcome} {s.name}{alarm}: {s.why}", style)
        if v.driver and not v.slices:
            self.line(f"{INDENT}worst slice {v.driver}", style)
        if v.lost and v.outcome is not Outcome.PASS:
            self.line(f"{INDENT}lost, worst first: {some(v.lost)}", style)
        if v.waiver:
            self.line(f"{INDENT}{v.waiver.says()}", "yellow")

    def slices(self, report: Report) -> None:
        for column, values in report.slices.items():
            rows = [[column, "n", *report.metrics]]
            for value, metrics in values.items():
                there = (number(metrics.get(m)) for m in report.metrics)
                rows.append([value, number(metrics.get("n")), *there])
            self.columns(rows, indent="    ")

    def summary(self, run: Run) -> None:
        """Print what a run came to."""
        self.console.print()
        self.rule("summary")
        self.table(run)
        if run.sweep:
            self.trials(run.sweep)
        training = run.facts.get("training")
        if training and self.verbosity >= 0:
            self.line("training: " + ", ".join(describe(k, v) for k, v in training.items() if _plain(v)))
        for flag in run.flags:
            if flag.severity != "note" or flag.ignored is not None:
                self.flag(replace(flag, evidence=(), fix=""))
        for report in run.reports:
            if report.outcome == "error":
                self.line(f"ERROR {report.id}: {report.error}", "bold red")
        self.not_passed(run)
        for conclusion in run.conclusions:
            self.line(conclusion, "bold")
        self.exports(run)
        if run.deselected:
            self.line(
                f"{len(run.deselected)} items deselected: a part proves nothing about the whole, so nothing ships"
            )
        if run.problem:
            for problem in run.problem.split("\n"):
                self.line(f"error: {problem}", "bold red")
        if run.traceback and (self.verbosity > 0 or run.exit_code == ExitCode.INTERNAL):
            self.lines(run.traceback, "dim")
        self.ending(run)

    def exports(self, run: Run) -> None:
        """Print what was exported, and why something was not."""
        for e in run.exports:
            if e.written:
                self.line(
                    f"exported {e.candidate} to {e.to} ({e.bytes / 1e6:,.0f} MB, weights {e.digest[:12]})", "green"
                )
            else:
                self.line(f"not exported: {e.candidate} to {e.to}", "bold red")
                for reason in e.reasons:
                    self.line(f"  because {reason}")

    def ending(self, run: Run) -> None:
        """Print the last line: outcomes, time and exit code."""
        counts = ", ".join(f"{n} {o}" for o in Outcome if (n := run.count(o))) or "nothing was gated"
        waived = sum(v.waived for v in run.verdicts)
        counts += f" ({waived} waived)" if waived else ""
        style = "green" if run.exit_code == ExitCode.OK and not waived else "bold red"
        style = "yellow" if run.exit_code == ExitCode.OK and waived else style
        self.rule(f"{counts} in {duration(run.seconds)} · exit {int(run.exit_code)} · {run.folder}", style)

    def not_passed(self, run: Run) -> None:
        left = [v for v in run.verdicts if v.outcome is not Outcome.PASS]
        for v, why in zip(left, reasons(left), strict=True):
            self.line(f"{v.outcome} {v.candidate}: {title(v)}: {why}", STYLES[v.outcome])
            if v.waiver:
                self.line(f"  {v.waiver.says()}", "yellow")

    def table(self, run: Run) -> None:
        """Print every metric with one column a subject."""
        done = [r for r in run.reports if r.outcome != "skipped"]
        subjects = list(dict.fromkeys(r.subject for r in done))
        if not subjects:
            return
        cells = {(r.eval, m, r.subject): number(v) for r in done for m, v in r.metrics.items()}
        rows = [["metric", *subjects]]
        for evaluation, metric in dict.fromkeys((e, m) for e, m, _ in cells):
            rows.append([f"{evaluation}.{metric}", *(cells.get((evaluation, metric, s), "–") for s in subjects)])
        self.columns(rows)

    def trials(self, sweep: Swept) -> None:
        """Print a sweep's trials, the chosen one marked."""
        self.line(f"sweep of {sweep.key} on {sweep.rows} select rows, each step tested at alpha {sweep.alpha:g}:")
        rows = [[f"  {sweep.key}", sweep.by, "against the one before", "p", "parameters", "training"]]
        for t in sweep.trials:
            mark = ">" if sweep.chosen is not None and t.value == sweep.chosen else " "
            metric = number(t.metric) + interval(t.lower, t.upper, number)
            write = partial(difference, sweep.scale)
            change = "–" if t.change is None else write(t.change) + interval(t.change_lower, t.change_upper, write)
            seconds = "–" if t.seconds is None else duration(t.seconds)
            size = "–" if t.parameters is None else f"{t.parameters:,}"
            p = "–" if t.p is None else f"{t.p:.2g}"
            rows.append(
                [f"{mark} {show(t.value)}", metric, change, p, size, seconds + (" (earlier)" if t.reused else "")]
            )
        rows += [[f"  {show(value)}", "not tried", "", "", "", ""] for value in sweep.values[len(sweep.trials) :]]
        self.columns(rows)

    # -- drawing -----------------------------------------------------------------------------------

    def draw(self, progress: Sign, facts: str) -> None:
        if self.bar is None:
            columns = (TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.completed}/{task.total}"))
            self.bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("{task.fields[facts]}"), console=self.console, transient=True
            )
            self.bar.start()
        what, facts = escape(progress.what), escape(facts)
        if self.task is None or progress.what != self.what:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.what = self.bar.add_task(what, total=progress.total, facts=facts), progress.what
        self.bar.update(self.task, completed=progress.done, total=progress.total, facts=facts)

    def clear(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar, self.task, self.what = None, None, ""


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float))
