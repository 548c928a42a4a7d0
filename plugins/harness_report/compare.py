"""Two runs side by side: gates, metrics on the rows that both asked by a gate's own tests, configuration.

And how that is told on a terminal, in a pull request and to programs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from harness import Gate, Outcome, UsageError, Verdict
from harness.internals import (
    count_noun,
    decide,
    escape_markdown,
    missing_modules_message,
    printable,
    rules,
    verdict_numbers,
    view_run,
)
from harness_report.configuration import Setting
from harness_report.formatting import GLYPHS, format_day
from harness_report.gates import claim_text, estimate_text, figures
from harness_report.pairs import LOST, WON, Pairs, pair_metric
from harness_report.reading import LoadedRun, gate_metric, gate_result, gate_samples, question_of_row

SAME_TEXT = "the same on every row"  # for a metric with no changed row
OTHER_RUN = "the other run"  # the name of the baseline in a test between two runs
READINGS = {
    Outcome.FAIL: "worse",
    Outcome.INCONCLUSIVE: "not significantly different",
    Outcome.PASS: "better",
}  # the worst first
INDENT_COLUMNS = 16  # columns of a verdict's word, at least
STYLES = {"PASS": "green", "FAIL": "red", "ERROR": "red", "INCONCLUSIVE": "yellow", "worse": "red", "better": "green"}
Line = Table | Text | str | tuple[str, str, Text]  # of a terminal; a tuple is a word, its style, and what it is of


class RunLabels(NamedTuple):
    """The names of two runs."""

    earlier: str
    later: str


@dataclass(frozen=True)
class GatePair:
    """A gate in this run and, if present, in the other."""

    now: Verdict
    before: Verdict | None

    @property
    def name(self) -> str:
        """The gate and its candidate."""
        return printable(f"{self.now.gate} on {self.now.candidate}")

    @property
    def is_same(self) -> bool:
        """Return whether both runs came to the same numbers."""
        b, keys = self.before, ("outcome", "estimate", "lower", "upper", "claim")
        return b is not None and all(getattr(self.now, k) == getattr(b, k) for k in keys)


@dataclass(frozen=True)
class MetricComparison:
    """A metric of two runs on their common rows. It is tested as by a gate "better than the other run"."""

    metric: str
    verdict: Verdict
    reading: str
    pairs: Pairs
    left: int  # rows that only one run asked, or that another text stands in


@dataclass(frozen=True)
class RunComparison:
    """The differences between two runs."""

    now: LoadedRun
    before: LoadedRun
    gates: list[GatePair]
    same: list[GatePair]  # gates that came to the same numbers
    metrics: list[MetricComparison]
    rules: list[str]  # what decides and is another, in words
    settings: list[Setting]
    notes: list[str]  # what a reader must know before believing it

    @property
    def labels(self) -> RunLabels:
        """The names of both runs, the earlier first: their days, else the hours, else their folders."""
        runs = (self.before, self.now)
        days = [format_day(k.run.started, time=False) for k in runs]
        hours = [format_day(k.run.started).rpartition(", ")[2] for k in runs]
        folders = [printable(k.folder.resolve().name) for k in runs]
        one, other = next((names for names in (days, hours) if names[0] != names[1]), folders)
        return RunLabels(one, other)


def compare_runs(now: LoadedRun, before: LoadedRun) -> RunComparison:
    """Compare a run with another one, which came before it."""
    theirs = {(v.gate, v.candidate): v for v in before.run.verdicts}
    both = [GatePair(v, theirs.get((v.gate, v.candidate))) for v in view_run(now.run).verdicts]
    differ, same = [b for b in both if not b.is_same], [b for b in both if b.is_same]
    between = []  # every metric of one number a row that both runs have of the page's candidate, the worst first
    for report in now.run.results:
        if report.subject == now.ours and before.report(before.ours, report.eval):
            metric, _ = now.against(report.eval)
            if now.scale(f"{report.eval}.{metric}").is_of_rows:
                between.append(_test_metric_on_common_rows(now, before, report.eval, metric))
    order = list(READINGS.values())
    between.sort(key=lambda b: order.index(b.reading) if b.reading in order else len(order))
    changed = rules.changed_rules(now.rules, before.rules) if now.lock and before.lock else []
    found = [Setting(printable(c.key), printable(c.now), printable(c.before)) for c in changed if not c.decides]
    versions, old = now.run.versions, before.run.versions
    found += [Setting(n, versions.get(n, "missing"), old.get(n, "missing")) for n in {**versions, **old}]
    weights, old = now.run.digests, before.run.digests
    found += [Setting(f"weights of {n}", weights[n][:12], old[n][:12]) for n in weights if n in old]
    settings, notes = [s for s in found if s.value != s.before], []
    if now.run.suite != before.run.suite:
        notes.append(
            f"different suites, {printable(now.run.suite)} and {printable(before.run.suite)}: gates and "
            "evals with the same name are compared"
        )
    if now.ours != before.ours:
        notes.append(f"{printable(now.ours)} of this run is compared with {printable(before.ours)} of the other")
    for evaluation, left in ((b.metric.partition(".")[0], b.left) for b in between if b.left):
        notes.append(f"{evaluation}: {count_noun(left, 'row')} with different prompts in the two runs, left out")
    if only := [r.eval for r in now.run.results if r.subject == now.ours and not before.report(before.ours, r.eval)]:
        notes.append(f"evaluated only in this run: {', '.join(map(printable, only))}")
    for kept in (now, before):
        notes += [f"{printable(kept.folder.resolve().name)}: {printable(m)}" for m in dict.fromkeys(kept.missing)]
    decisive = [printable(c.describe()) for c in changed if c.decides]
    return RunComparison(now, before, differ, same, between, decisive, settings, notes)


def _test_metric_on_common_rows(now: LoadedRun, before: LoadedRun, evaluation: str, metric: str) -> MetricComparison:
    """Compare a metric of two runs on their common rows.

    It is tested as by a gate "better than the other run" without a margin. Raises UsageError if numpy or scipy is
    missing.
    """
    ours, theirs = now.rows(now.ours, evaluation), before.rows(before.ours, evaluation)
    ids = [i for i in ours if i in theirs and question_of_row(ours[i]) == question_of_row(theirs[i])]
    left, name = len(ours.keys() | theirs.keys()) - len(ids), f"{evaluation}.{metric}"
    ours, theirs = {i: ours[i] for i in ids}, {i: theirs[i] for i in ids}
    pair = pair_metric(metric, theirs, ours, (before.ours, now.ours), lower=now.is_lower(name))
    gate = Gate("between", name, versus=OTHER_RUN, better_by=0.0, severity="warn")
    one, other = (gate_result(k, name, rows) for k, rows in ((now, ours), (before, theirs)))
    try:
        verdict = decide(gate, gate_metric(now, name), one, other, gate_samples(ours), now.run.alpha, name=now.ours)
    except ModuleNotFoundError as error:
        raise UsageError(f"two runs: the test of {name} {missing_modules_message(error.name)}") from None
    if pair.rows and not pair.count(LOST) + pair.count(WON):
        reading = SAME_TEXT
    elif now.run.digests.get(now.ours) == before.run.digests.get(before.ours):
        reading = "the same model"
    else:
        reading = READINGS.get(verdict.outcome, "not comparable")
    return MetricComparison(name, verdict, reading, pair, left)


def render_lines(*parts: Line) -> str:
    """Render parts with rich.

    Colours and line breaks are used only on a terminal. A tuple is a word, its style and its text.
    """
    real = Console(highlight=False)
    width = real.width if real.is_terminal else 10_000
    console = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=real.is_terminal)
    indent = max([INDENT_COLUMNS, *(len(part[0]) for part in parts if isinstance(part, tuple))])
    for part in parts:
        if isinstance(part, tuple):
            word, style, text = part
            part = Table.grid(Column(width=indent, no_wrap=True), padding=(0, 1, 0, 0))
            part.add_row(Text(word, style), text)
        console.print(part, markup=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))


def comparison_lines(c: RunComparison) -> str:
    """Format the differences between two runs for a terminal."""
    before, now = c.labels
    parts: list[Line] = [
        f"{now}: {printable(view_run(c.now.run).sentence)}",
        f"{before}: {printable(view_run(c.before.run).sentence)}",
        *(f"note: {n}" for n in c.notes),
    ]
    if c.rules:
        parts += ["", Text("rules changed", "bold"), *(Text(line, "yellow") for line in c.rules)]
    if c.gates:
        parts += ["", Text(f"gates, {now} and before", "bold")]
    for b in c.gates:
        was = f"{b.before.outcome} {estimate_text(c.before, b.before)}" if b.before else "not evaluated"
        text = Text(f"{b.name}\n{estimate_text(c.now, b.now)}, was {was}")
        parts.append((f"{GLYPHS[b.now.outcome]} {b.now.outcome}", STYLES[b.now.outcome], text))
    if c.same:
        parts.append(f"{count_noun(len(c.same), 'gate')} with the same result: {', '.join(b.name for b in c.same)}")
    if c.metrics:
        parts += ["", Text(f"{printable(c.now.ours)} on the rows of both runs", "bold")]
    for m in (m for m in c.metrics if m.reading != SAME_TEXT):
        said, v = figures(c.now, m.verdict), m.verdict
        rows = f"{count_noun(len(m.pairs.rows), 'row')}, {m.pairs.count(LOST)} lost and {m.pairs.count(WON)} won"
        found = f"{estimate_text(c.now, v)}, {rows}" if v.estimate is not None else printable(v.why)
        text = Text(f"{printable(m.metric)}  {said.baseline}, now {said.value}\n{found}")
        parts.append((m.reading, STYLES.get(m.reading, ""), text))
    if alike := [m.metric for m in c.metrics if m.reading == SAME_TEXT]:
        parts.append(f"the same on every row: {printable(', '.join(alike))}")
    if c.settings:
        parts += ["", Text("differences in configuration", "bold")]
        parts += [f"{s.key}  {s.before}, now {s.value}" for s in c.settings]
    return render_lines(*parts)


def comparison_markdown(c: RunComparison) -> str:
    """Format the differences between two runs as Markdown."""
    before, now = map(escape_markdown, c.labels)
    lines = [f"## {escape_markdown(view_run(c.now.run).sentence)}", "", f"Against {before}:"]
    lines += [
        f"{escape_markdown(view_run(c.before.run).sentence)}.",
        *(f"- {escape_markdown(n)}" for n in c.notes),
    ]
    if c.rules:
        lines += ["", "Rules changed:", "", *(f"- **{escape_markdown(line)}**" for line in c.rules)]
    if c.gates:
        lines += ["", f"| gate | {before} | {now} |", "|---|---|---|"]
    for b in c.gates:
        claim = f"{b.now.gate} on {b.now.candidate}: {claim_text(c.now, b.now)}"
        claim += "" if b.now.blocking else " (only warns)"
        lines.append(
            _format_markdown_row(
                claim, _format_outcome_and_estimate(c.before, b.before), _format_outcome_and_estimate(c.now, b.now)
            )
        )
    if c.same:
        lines += ["", f"{len(c.same)} gates with the same result."]
    if c.metrics:
        lines += ["", "| metric | result | before, now | difference | rows |", "|---|---|---|---|---|"]
    for m in c.metrics:
        said = figures(c.now, m.verdict)
        values = f"{said.baseline}, {said.value}"
        lines.append(
            _format_markdown_row(m.metric, m.reading, values, estimate_text(c.now, m.verdict), f"{len(m.pairs.rows):,}")
        )
    if c.settings:
        lines += ["", f"| configuration | {before} | {now} |", "|---|---|---|"]
        lines += [_format_markdown_row(s.key, s.before or "", s.value) for s in c.settings]
    return "\n".join(lines) + "\n"


def _format_markdown_row(*texts: str) -> str:
    return "| " + " | ".join(map(escape_markdown, texts)) + " |"


def _format_outcome_and_estimate(kept: LoadedRun, v: Verdict | None) -> str:
    return "not evaluated" if v is None else f"{GLYPHS[v.outcome]} {v.outcome} {estimate_text(kept, v)}"


def comparison_data(c: RunComparison) -> dict[str, Any]:
    """Return the differences between two runs as plain data."""
    gates: list[dict[str, Any]] = []
    for b in [*c.gates, *c.same]:
        about = {"gate": b.now.gate, "candidate": b.now.candidate, "claim": claim_text(c.now, b.now), "same": b.is_same}
        gates.append({**about, "now": format_verdict_json(b.now), "before": b.before and format_verdict_json(b.before)})
    metrics: list[dict[str, Any]] = []
    for m in c.metrics:
        v, won, lost = m.verdict, [p.id for p in m.pairs.of(WON)], [p.id for p in m.pairs.of(LOST)]
        found = {"metric": m.metric, "reading": m.reading, "now": v.value, "before": v.baseline, "alpha": v.alpha}
        found |= {"estimate": v.estimate, "lower": v.lower, "upper": v.upper, "p": v.p_pass, "method": v.method}
        found |= {"n": v.n, "won_count": len(won), "lost_count": len(lost), "left_out": m.left}
        metrics.append({**found, "won": won, "lost": lost, "why": v.why})
    settings = [{"key": s.key, "now": s.value, "before": s.before} for s in c.settings]
    value = {
        "run": _make_run_summary_json(c.now),
        "against": _make_run_summary_json(c.before),
        "gates": gates,
        "metrics": metrics,
    }
    return value | {"rules": c.rules, "settings": settings, "notes": c.notes}


def _make_run_summary_json(kept: LoadedRun) -> dict[str, Any]:
    run = kept.run
    about = {"folder": kept.folder.name, "suite": run.suite, "started": run.started, "exit_code": int(run.exit_code)}
    return {**about, "sentence": view_run(run).sentence, "candidate": kept.ours}


def format_verdict_json(v: Verdict) -> dict[str, Any]:
    """Return a verdict's numbers. For a gate on several slices they are those of the deciding slice."""
    told = verdict_numbers(v)
    about = {"outcome": v.outcome, **{key: told[key] for key in ("value", "baseline", "estimate", "lower", "upper")}}
    about |= {"threshold": v.threshold, "n": told["n"]} | ({"runs": list(v.run_values)} if v.run_values else {})
    return about | ({"slice": told["where"]} if told["where"] else {})
