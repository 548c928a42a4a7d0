"""What a run came to, the last page of the terminal: numbers, what did not pass, what was decided, where things are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from harness.cli.screen import Screen
from harness.cli.words import describe, duration, interval, percent, place, reasons, title
from harness.errors import ExitCode
from harness.records.findings import Finding
from harness.records.run import Run, Swept
from harness.records.verdicts import Outcome, Verdict
from harness.reports.sentence import verdict_sentence
from harness.schema import show
from harness.texts.counts import counted
from harness.texts.numbers import number, size

STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.INCONCLUSIVE: "yellow", Outcome.ERROR: "bold red"}
FLAG_STYLES = {"error": "bold red", "warning": "yellow", "note": "", "ignored": "dim"}
REPORTS = ("report.html",)  # what plugins may have written into a run's folder for a person to open


class Summary:
    """The last page of a run. `verbosity`: -1 alone on the screen, 1 with the names of tests and tracebacks."""

    def __init__(self, screen: Screen, run: Run, verbosity: int) -> None:
        self.screen, self.run, self.verbosity = screen, run, verbosity
        self.line = screen.line

    def tell(self) -> None:
        """Print it."""
        run = self.run
        if self.verbosity >= 0:
            self.line("")
        self.screen.rule("summary")
        self.table()
        if run.sweep:
            self.trials(run.sweep)
        training = run.facts.get("training")
        if training and self.verbosity >= 0:
            said = (describe(k, v) for k, v in training.items() if isinstance(v, (str, int, float)))
            self.line("training: " + ", ".join(said), hang=10)
        for flag in run.flags:
            if flag.severity != "note" or flag.ignored is not None:
                tell_flag(self.screen, replace(flag, evidence=(), fix=""))
        for report in run.reports:
            if report.outcome == "error":
                self.line(f"ERROR {report.id}: {report.error}", "bold red")
        self.not_passed()
        for conclusion in run.conclusions:
            self.line(conclusion, "bold")
        self.refused()
        if run.deselected:
            items = counted(len(run.deselected), "item")
            self.line(f"{items} deselected")
        if run.problem:
            for problem in run.problem.split("\n"):
                self.line(f"error: {problem}", "bold red")
        if run.traceback and (self.verbosity > 0 or run.exit_code == ExitCode.INTERNAL):
            self.screen.lines(run.traceback, "dim")
        self.ending()

    def not_passed(self) -> None:
        """Print what did not pass, with what was claimed, and why."""
        left = [v for v in self.run.verdicts if v.outcome is not Outcome.PASS]
        if self.verbosity < 0 and any(v.lower is not None or v.upper is not None for v in left):
            self.line(legend(self.run.alpha))
        for v, why in zip(left, reasons(left, tests=self.verbosity > 0), strict=True):
            claim = f"{v.metric} {v.claim}: ".lstrip() if v.estimate is not None else ""
            why += other_bounds(v, self.run.alpha)
            self.line(f"{v.outcome} {v.candidate}: {title(v)}: {claim}{why}", STYLES[v.outcome])
            if v.waiver:
                self.line(f"  {v.waiver.says()}", "yellow")

    def refused(self) -> None:
        """Print why something was not exported."""
        for e in self.run.exports:
            if not e.written:
                self.line(f"not exported: {e.candidate} to {place(e.to)}", "bold red")
                for reason in e.reasons:
                    self.line(f"  because {reason}")

    def ending(self) -> None:
        """Print the last lines: outcomes, time and exit code, what was decided, and where things are."""
        run = self.run
        waived = any(v.waived for v in run.verdicts)
        style = "green" if run.exit_code == ExitCode.OK and not waived else "bold red"
        style = "yellow" if run.exit_code == ExitCode.OK and waived else style
        self.screen.rule(f"{outcomes(run.verdicts)} in {duration(run.seconds)} · exit {int(run.exit_code)}", style)
        self.line(verdict_sentence(run), style if style == "yellow" else f"bold {style.split()[-1]}")
        for e in run.exports:
            if e.written:
                what = f"{size(e.bytes)}, weights {e.digest[:12]}"
                self.line(f"exported {e.candidate} to {place(e.to)} ({what})")
        for name in REPORTS if run.folder else ():
            if (there := Path(run.folder) / name).is_file():
                self.line(f"report   {place(there)}", hang=9)
        if run.folder:
            self.line(f"run      {place(run.folder)}", hang=9)

    def table(self) -> None:
        """Print every metric with one column a subject."""
        done = [r for r in self.run.reports if r.outcome != "skipped"]
        subjects = list(dict.fromkeys(r.subject for r in done))
        if not subjects:
            return
        cells = {(r.eval, m, r.subject): number(v) for r in done for m, v in r.metrics.items()}
        rows = [["metric", *subjects]]
        for evaluation, metric in dict.fromkeys((e, m) for e, m, _ in cells):
            rows.append([f"{evaluation}.{metric}", *(cells.get((evaluation, metric, s), "–") for s in subjects)])
        self.screen.columns(rows)

    def trials(self, sweep: Swept) -> None:
        """Print a sweep's trials, the chosen one marked."""
        best = sweep.rule == "best"
        rule = "the best mean is taken" if best else f"each step tested at alpha {sweep.alpha:g}"
        self.line(f"sweep of {sweep.key} on {sweep.rows} select rows, {rule}:")
        before = f"against the {'best' if best else 'one'} before"
        rows = [[f"  {sweep.key}", sweep.by, before, "p", "parameters", "training"]]
        for t in sweep.trials:
            mark = ">" if sweep.chosen is not None and t.value == sweep.chosen else " "
            metric = number(t.metric) + interval(t.lower, t.upper, number)
            write = sweep.shown
            change = "–" if t.change is None else write(t.change) + interval(t.change_lower, t.change_upper, write)
            seconds = "–" if t.seconds is None else duration(t.seconds)
            parameters = "–" if t.parameters is None else f"{t.parameters:,}"
            p = "–" if t.p is None else f"{t.p:.2g}"
            seconds += " (earlier)" if t.reused else ""
            rows.append([f"{mark} {show(t.value)}", metric, change, p, parameters, seconds])
        rows += [[f"  {show(value)}", "not tried", "", "", "", ""] for value in sweep.values[len(sweep.trials) :]]
        self.screen.columns(rows)


def tell_flag(screen: Screen, flag: Finding) -> None:
    """Print what a check found: the line, the rows that show it, the way out."""
    word, hang = "ignored" if flag.ignored is not None else flag.severity, 11
    screen.line(f"  {word:<8} {flag.name}: {flag.what}", FLAG_STYLES[word], hang)
    if flag.ignored is not None:
        screen.line(f"           {flag.ignored}", "dim", hang)
        return
    for line in flag.evidence:
        screen.line(f"           {line}", "dim", hang)
    if flag.fix:
        screen.line(f"           fix: {flag.fix}", hang=hang)


def legend(alpha: float) -> str:
    """Return what the brackets in a report are."""
    return f"[a, b]  each bound holds at {percent(1 - alpha)}, one-sided"


def other_bounds(v: Verdict, alpha: float) -> str:
    """Return the confidence of a verdict's bounds where the suite's alpha is not theirs."""
    bounded = (v.lower is not None or v.upper is not None) and v.method not in ("point", "failures counted")
    return f"; bounds at {percent(1 - v.alpha)}" if v.alpha and v.alpha != alpha and bounded else ""


def outcomes(verdicts: Iterable[Verdict]) -> str:
    """Return how many verdicts came to what: what holds nothing up is counted apart, with the reason."""
    verdicts = list(verdicts)
    parts = [f"{n} {o}" for o, n in _tally(v for v in verdicts if v.outcome is Outcome.PASS or v.holds_up)]
    for why in ("waived", "warn", "any_of", "not what ships"):
        parts += [f"{n} {o} ({why})" for o, n in _tally(v for v in verdicts if _idle(v) == why)]
    return ", ".join(parts) or "nothing was gated"


def _idle(v: Verdict) -> str:
    """Return why a verdict that is no PASS holds nothing up, or nothing."""
    if v.outcome is Outcome.PASS or v.holds_up:
        return ""
    if v.waived:
        return "waived"
    return "any_of" if v.group else "not what ships" if v.blocking else "warn"


def _tally(verdicts: Iterable[Verdict]) -> Iterator[tuple[Outcome, int]]:
    found = [v.outcome for v in verdicts]
    yield from ((o, found.count(o)) for o in Outcome if o in found)
