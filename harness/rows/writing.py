"""Output of a gate on rows, in the form of a run.

It is a folder, a page, JUnit, and a few lines on the terminal.
"""

from __future__ import annotations

import json
import os
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import LOCK
from harness.document import Document
from harness.errors import ExitCode, UsageError
from harness.files import reporting_write_errors, write_text
from harness.pipeline.ledger import describe_attempts
from harness.plugins import load_plugins
from harness.records import verdict_text
from harness.records.claims.gate import DERIVED_FIELDS, GATE_COMMAND, ClaimTerms
from harness.records.figures import Figures
from harness.records.parts.part import Slot
from harness.records.result_text import format_parts, format_relative_limit, sort_parts
from harness.records.run import Run
from harness.records.verdict_figures import verdict_figures, verdict_numbers
from harness.records.verdicts import Outcome, Verdict
from harness.reports.junit import find_overwrite_error, format_junit
from harness.reports.report_json import to_json
from harness.reports.run_folder import RunFolder
from harness.reports.view import view_run
from harness.rows.arguments import describe_invocation
from harness.rows.bundle import FOLDER, write_bundle
from harness.rows.gating import MAX_EXAMPLES, MAX_ROWS, UNKNOWN_PREFIX, MeasuredRows
from harness.rows.readers.fields import TASK
from harness.rows.row_texts import MAX_UNCHANGED_ROWS, select_written_rows
from harness.rows.suites import JudgedRows, judge_rows
from harness.rows.wording import write_option
from harness.suite.tables import Suite
from harness.suite.waivers import read_waivers
from harness.texts import numbers
from harness.texts.counts import count_noun
from harness.texts.escaping import printable
from harness.texts.json_text import dumps
from harness.version import __version__

WIDTH_COLUMNS = 80
ROWS_WAY = 'use other rows, or write attempts = "spend" in [suite]'  # out of repeated attempts
COMMAND_WAY = 'use other rows, or a suite with attempts = "spend", for which --write-suite FILE writes the claim'
MOST_GATES = 8  # of more, those that passed are names in one line
# fields of a gate that are no keys, or stand first
UNCLAIMED_FIELDS = ("id", "metric", *DERIVED_FIELDS)


def run_rows(suite: Suite, args: Namespace) -> Document[Run]:
    """Run a suite with [rows].

    Its paths are relative to its folder.
    """
    return conclude_gate(judge_rows(suite, load_plugins(suite.path), read_waivers(suite.path)), args)


def conclude_gate(found: JudgedRows, args: Namespace) -> Document[Run]:
    """Write the results.

    Raises UsageError if they cannot be written.
    """
    if args.junit_xml and (why := find_overwrite_error(args.junit_xml)):
        raise UsageError(f"{write_option('junit_xml', args.junit_xml)}: {why}; name another file")
    run = make_run(found)
    run.invocation = describe_invocation(args)
    try:
        write_run(found, run, args.out)
        if args.junit_xml:
            write_text(args.junit_xml, format_junit(run))
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}; free space, or set --out") from None
    if args.job:
        found.plugins.manager.register(args.job)
    found.plugins.hook.harness_run_finish(run=run)

    def print_text(run: Run) -> None:
        for line in format_gate(found, run):
            print(line)

    return Document(run, print_text, run.exit_code, lambda run: {"run": json.loads(to_json(run))})


def make_run(found: JudgedRows) -> Run:
    """Return judged rows as a run."""
    suite, standings, version = found.suite, [*found.standings.values()], __version__
    conclusions = [line for one in found.measured.values() for line in format_provenance(one, found)]
    conclusions += describe_attempts(
        found.verdicts,
        suite.header.attempts == "spend",
        standings,
        COMMAND_WAY if suite.place == GATE_COMMAND else ROWS_WAY,
    )
    runs = {side: run for one in found.measured.values() for side, run in one.runs.items()}
    notes = [note for one in found.measured.values() for run in one.runs.values() for note in run.notes]
    digests = {side: result.digest for one in found.measured.values() for side, result in one.results.items()}
    facts: dict[str, dict[str, Any]] = {}
    for side, one in runs.items():
        files = enumerate(one.sources, 1)
        sources = {f"file {i}": f"{Path(p).name}, {n:,} bytes, sha256 {d}" for i, (p, d, n) in files}
        facts[side] = {"model": one.model, "tool": one.tool, **one.facts, "binding": one.binding, **sources}
    held = {v.outcome for v in found.verdicts if v.blocks_release}
    if Outcome.FAIL in held:  # which outranks what could not be decided, and no gate that blocks is no success
        code = ExitCode.FAILED
    elif any(v.blocking for v in found.verdicts):
        code = ExitCode.INCONCLUSIVE if held else ExitCode.OK
    else:
        code = ExitCode.NOTHING_GATED
    return Run(
        suite.name, str(suite.path), suite.digest, 0, suite.header.alpha, next(iter(runs.values())).model,
        found.started.isoformat(timespec="seconds"), version, gates=len(suite.gates), exit_code=code,
        items=tuple(r.id for r in found.reports), results=found.reports, conclusions=conclusions,
        facts=facts, warnings=[*found.warnings, *dict.fromkeys(notes)],
        digests=digests, waivers=found.waivers, seconds=(datetime.now(UTC) - found.started).total_seconds(),
    )  # fmt: skip


def write_run(found: JudgedRows, run: Run, out: Path) -> None:
    """Write the folder of a run. Raises OSError."""
    folder = RunFolder(out, run.suite, found.started)
    run.folder = str(folder.path)
    suite = found.suite
    evals = [{"name": e.name, "use": e.use, "slices": e.slices, "options": dict(e.options)} for e in suite.evals]
    each = {name: one.metric for name, one in found.measured.items()}
    keys = ("better", "scale", "combine", "range")
    metrics = {n: {m.name: {key: getattr(m, key) for key in keys}} for n, m in each.items()}
    gates = [{**asdict(g), "claim": g.claim(), "blocking": g.blocking} for g in suite.gates]
    told = {"name": suite.name, "digest": suite.digest, "header": asdict(suite.header), "evals": evals}
    sides = {run: one for measured in found.measured.values() for run, one in measured.runs.items()}
    rows = {s: {"path": suite.rows[s].path, "model": one.model, "tool": one.tool} for s, one in sides.items()}
    lock = {"suite": told, "metrics": metrics, "gates": gates, "harness": __version__, "rows": rows}
    write_text(folder.path / LOCK, dumps(lock))
    for name, one in found.measured.items():
        written = select_written_rows(found, name)
        for result in written.results.values():
            folder.add(result, written.samples, {one.metric.name: one.metric}, {})
        if len(written.samples) < len(one.samples):
            what = f"of {len(one.samples):,} rows {len(written.samples):,} are written"
            run.warnings.append(
                f"{name}: {what}: those lost or won, and a drawn sample of {MAX_UNCHANGED_ROWS:,} others"
            )
    if all(len(one.samples) <= MAX_ROWS for one in found.measured.values()):
        write_bundle(found, folder.path / FOLDER)
    else:
        run.warnings.append(f"with more than {MAX_ROWS:,} rows no evidence is written")
    folder.finish(run)


def write_suite(found: JudgedRows, path: Path, paths: Mapping[str, str]) -> None:
    """Write a gate with its resolved settings as a suite.

    Raises UsageError if it cannot be written, or would replace another file.
    """
    (spec,), (gate, *_) = found.suite.evals, found.suite.gates  # behind which guards stand
    one = found.measured[spec.name]
    relative = {side: os.path.relpath(place, path.absolute().parent) for side, place in paths.items()}
    options = {"task": one.runs["candidate"].task, **spec.options, "metric": one.metric.name}
    if one.runs["candidate"].tool == "table":
        del options["task"]  # which is the file's name
    options |= {"cluster": spec.cluster} if spec.cluster else {}
    slices = [name for name in spec.slices if name != TASK or not one.runs["candidate"].tasks]
    options |= {"slices": slices} if slices else {}
    claim = {k: v for k, v in asdict(gate).items() if k not in UNCLAIMED_FIELDS and v != asdict(type(gate)("x"))[k]}
    about = {"name": found.suite.name, "alpha": found.suite.header.alpha}
    tables: list[tuple[str, Mapping[str, Any]]] = [("[suite]", about)]
    tables += ((f"[rows.{side}]", {"path": place}) for side, place in relative.items())
    tables += [("[[eval]]", {"name": spec.name, "use": "rows", **options})]
    tables += [("[[gate]]", {"id": gate.id, "metric": gate.metric, **claim})]
    toml = partial(json.dumps, ensure_ascii=False)  # of texts, numbers, lists of texts and truth the same
    text = "\n".join("\n".join([title, *(f"{k} = {toml(v)}" for k, v in keys.items()), ""]) for title, keys in tables)
    with reporting_write_errors(path, "; name another file"):
        if path.exists() and path.read_bytes() not in (b"", text.encode()):
            raise UsageError(f"{write_option('write_suite', path)}: exists already; name a new file")
        write_text(path, text)


def format_provenance(one: MeasuredRows, found: JudgedRows) -> list[str]:
    """Return the lines that explain how a verdict came about."""
    pairs, metric, both = one.pairs, one.metric, "base" in one.runs
    how = f"paired by {pairs.how}" if both else "rows of one run, not paired"
    if all(set(states) == {"scored"} for states in one.states.values()):
        scored = "all scored on both sides" if both else "all scored"
    else:
        each = [(side, sorted(n.items(), key=lambda told: told[0] != "scored")) for side, n in one.states.items()]
        scored = " · ".join(f"{side} " + ", ".join(f"{n:,} {state}" for state, n in told) for side, told in each)
    standing = found.standings.get(("candidate", one.name))
    attempt = f" · {count_noun(standing.number, 'attempt')}" if standing else ""
    told = [f"rows       {len(pairs.names):,} {how} · {scored}{attempt}"]
    name = f"{one.runs['candidate'].task} {metric.name}"
    told.append(f"metric     {name} · {metric.better} is better ({one.metric_reason}) · {metric.scale}")
    told += [f"columns    {line}" for line in one.runs["candidate"].columns_told]
    if pairs.repeats != (1, 1):
        told.append(f"repeats    base {pairs.repeats[0]}, candidate {pairs.repeats[1]}; a row is their mean")
    if pairs.renamed:
        told.append(f"names      {pairs.renamed:,} mean another question on the other side; paired by content")
    if both and one.results["base"].scores == one.results["candidate"].scores:
        told.append(f"same       all {len(pairs.names):,} rows have equal values; check that the adapter was applied")
    told += [f"differs    {line}" for line in one.differences.told]
    if one.base_is_worst:
        told.append(f"floor      base has the worst value on every row, so no loss can be seen in {metric.name}")
    named = len(found.measured) > 1  # of which evaluation a line is
    return [printable(f"{line[:11]}{one.name}: {line[11:]}" if named else line) for line in told]


def format_gate(found: JudgedRows, run: Run) -> Iterator[str]:
    """Yield the lines to print, wrapped at 80 columns.

    Longer words stay whole.
    """
    runs = {side: one for measured in found.measured.values() for side, one in measured.runs.items()}
    for side, one in runs.items():
        settings = [one.tool, *(one.facts[k] for k in ("backend", "dtype") if k in one.facts), one.model]
        yield from _wrap_line(f"{side:<10} {printable(' · '.join(settings))}")
    for line in (*run.conclusions, *(f"warning    {w}" for w in run.warnings)):
        yield from _wrap_line(printable(line))
    guards = {gate.id for gate in found.suite.gates if gate.guards}
    claims = [v for v in view_run(run).verdicts if v.gate not in guards]
    passed = [v for v in claims if v.outcome is Outcome.PASS] if len(claims) > MOST_GATES else []
    for verdict in claims:
        if verdict not in passed:
            yield ""
            yield from _iterate_verdict_lines(verdict, found)
    if passed:
        yield ""
        names = f"  PASS  {count_noun(len(passed), 'gate')}: {', '.join(printable(v.gate) for v in passed)}"
        yield from _wrap_line(names, " " * 8)
    if guards:
        yield ""
        yield from _iterate_task_table_lines([v for v in found.verdicts if v.gate in guards])
    yield ""
    for trust in dict.fromkeys(one.conditions[-1] for one in found.measured.values()):
        yield from _wrap_line(f"{trust[:1].upper()}{trust[1:]}.")
    view = view_run(run)
    yield from _wrap_line(f"{printable(view.sentence)} · {view.exit}", "")
    if view.folder:
        for line in view.changed_rules:
            yield from _wrap_line(printable(line), "")
        page = view.folder / "report.html"
        yield f"report  {page if page.is_file() else run.folder}"
        if step := view.next_step:
            yield from _wrap_line(f"next    {step.command or step.what}", " " * 8)


def _iterate_verdict_lines(v: Verdict, found: JudgedRows) -> Iterator[str]:
    """Yield a verdict: the estimate and its bound against the limit, then what these rest on."""
    about, head, indent = v.terms, f"  {v.outcome}  {v.gate}   ", " " * (len(v.outcome) + 4)
    if about is None or v.estimate is None or v.outcome is Outcome.ERROR:
        yield from _wrap_line(f"{head}{verdict_text.format_result(v)}{_describe_unknown_facts(v, found)}", indent)
        one = found.measured.get(v.metric.partition(".")[0])
        for side, result in one.results.items() if one and v.outcome is Outcome.ERROR else ():
            for row in result.missing[:MAX_EXAMPLES]:
                yield f'{indent}{side} "{printable(row)}" has no score'
        return
    figures = verdict_figures(v)
    kind = ", approximate risk" if v.risk == "approximate" else ""
    yield from _wrap_line(
        f"{head}{_describe_estimate_and_bound(v, about, figures)}{kind}{_describe_unknown_facts(v, found)}", indent
    )
    changed = f" pairs, {figures.lost:,} lost, {figures.won:,} won" if v.baseline is not None else " rows"
    of = f" of {v.n:,}" if figures.where else ""
    p = v.p_fail if v.outcome is Outcome.FAIL else v.p_pass
    chance = "" if p is None else f" · {numbers.format_p_in_sentence(p, v.alpha)}"
    beside = "".join(part.sentence(v.terms) for part in sort_parts(v.parts, Slot.ESTIMATE))
    size = f"{figures.n:,}{of}{changed}{beside}"
    yield from _wrap_line(f"{indent}{size} · {v.method}, risk {numbers.format_percent(v.alpha or 0)}{chance}", indent)
    own = verdict_text.without_shared(v)
    one = found.measured.get(v.metric.partition(".")[0])
    remarks = one.conditions[:-1] if one else ()  # the last says what rows are worth, below all verdicts
    for text in (*format_parts(v.terms, own.parts), *(t for t in remarks if not t.startswith(UNKNOWN_PREFIX))):
        yield from _wrap_line(f"{indent}{printable(text)}", indent)
    for worst in v.table() if not v.where else ():
        line = printable(f"{worst.remark} {worst.name}: {worst.sentence}")
        yield from _wrap_line(f"{indent}{line}", indent)


def _describe_estimate_and_bound(v: Verdict, about: ClaimTerms, figures: Figures) -> str:
    """Describe a verdict's values, estimate and bound against the limit.

    All are of the same rows; a slice's name comes first.
    """
    least = (about.sign > 0) != (v.outcome is Outcome.FAIL)  # of a refuted claim the other bound is beyond the limit
    bound, side = (figures.lower, "at least") if least else (figures.upper, "at most")
    estimate, limit = figures.estimate, figures.limit
    told = verdict_numbers(v)
    if about.is_share and v.baseline is not None:
        one, low, high, limit = figures.points
        estimate, bound = f"{one} points", low if least else high
    if about.relative and not about.is_log and (base := told["baseline"]):
        one, two = told["estimate"], told["lower" if least else "upper"]
        shares = ["–" if x is None else numbers.typographic_minus(f"{x / base:+.1%}") for x in (one, two)]
        estimate = f"{estimate} ({shares[0]})"
        bound = f"{bound} points ({shares[1]})" if about.is_share else shares[1]
        limit = format_relative_limit(about, base)
    where = f"{printable(figures.where)}: " if figures.where else ""
    values = f"{figures.baseline} → {figures.value}   " if told["baseline"] is not None else ""
    named = f"{figures.estimand} " if figures.estimand else ""
    return f"{where}{values}{named}{estimate}, {side} {bound} (limit {limit})"


def _iterate_task_table_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield a row a task: base, candidate, the difference and its interval; the worst first."""
    rows: list[tuple[str, ...]] = [("task", "rows", "base", "candidate", "difference", "")]
    for v in sorted(verdicts, key=lambda v: (v.outcome is not Outcome.FAIL, 1.0 if v.p_fail is None else v.p_fail)):
        about, figures = v.terms, verdict_figures(v)
        difference = f"{figures.estimate} {figures.bounds}" if about and v.estimate is not None else "–"
        task = printable(about.slices[0][1] if about and about.slices else v.gate)
        rows.append(
            (
                task,
                f"{figures.n:,}",
                figures.baseline,
                figures.value,
                difference,
                v.outcome if v.outcome is Outcome.FAIL else "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *cells in rows:
        parts = [cell.rjust(width) for cell, width in zip(cells[:-1], widths[1:], strict=False)]
        yield f"  {'  '.join([name.ljust(widths[0]), *parts, cells[-1]])}".rstrip()
    yield f"  A task fails where Holm refutes its claim among {len(verdicts)}; else it blocks nothing."


def _describe_unknown_facts(v: Verdict, found: JudgedRows) -> str:
    """Return the unknown facts, to end a verdict's first line.

    These are facts that change answers and that neither side reports.
    """
    one = found.measured.get(v.metric.partition(".")[0])
    return f"; {UNKNOWN_PREFIX}{', '.join(one.differences.unknown)}" if one and one.differences.unknown else ""


def _wrap_line(line: str, indent: str = " " * 11) -> list[str]:
    return textwrap.wrap(
        line, WIDTH_COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]
